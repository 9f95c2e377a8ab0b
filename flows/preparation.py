"""Goes in: targets and what to force. Comes out: a run of the pipeline, prepared: locked, mended, planned, recorded.

All of this needs no Prefect, so a run can be refused before Prefect is loaded, which takes a second or two.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.display import Display
from flows.pipeline_run import PipelineRun, TrackedRun
from flows.project import STATE
from flows.stage_process import StoppedError
from flows.surveyor import surveying
from pipeline import versioning
from pipeline.errors import HomegrownError, TryAgainError

if TYPE_CHECKING:
    from pipeline.params import ParamsFile

LOCKS = STATE / "locks"
# What a person may ask for instead of naming stages; everything they need runs with them.
GROUPS: dict[str, tuple[str, ...]] = {
    "corpus": ("validate", "tokenize"),
    "training": ("evaluate",),
    "release": ("register",),
    "all": (),
}


class RunStoppedError(StoppedError):
    """The run was stopped by a signal; what its stages had finished or saved is kept."""

    def __init__(self, run: PipelineRun) -> None:
        saved = [o.stage for o in run.outcomes.values() if isinstance(o.error, StoppedError) and o.error.saved]
        self.stopped_by = run.stopped_by or signal.SIGINT
        kept = f"{', '.join(saved)} saved what was done" if saved else "finished stages are kept"
        super().__init__(f"stopped by {self.stopped_by.name}; {kept}", bool(saved))


@contextlib.contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """The one lock of a pipeline run. The system frees it when its holder dies; a second run gets TryAgainError."""
    import filelock

    path = root / LOCKS / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name("run.json")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who = ""
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = json.loads(holder.read_text(encoding="utf-8"))
            who = f" (pid {facts['pid']}, since {facts['since']})"
        raise TryAgainError(f"another run is at work in this folder{who}; run again when it has ended") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder.write_text(json.dumps({"pid": os.getpid(), "since": since}) + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def prepared(
    root: Path,
    targets: Sequence[str],
    force: Sequence[str],
    display: Display,
    settings: Mapping[str, str] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[PipelineRun]:
    """A run, ready to be driven, under the run lock.

    `targets` are stages, names of a `foreach`, or one of GROUPS; `settings` may hold `preset` and dotted keys of
    params.yaml to rewrite first; `meanwhile` is called while DVC looks at the project. On leaving, whatever was started
    has ended, dvc.lock is in DVC's order, and the run's error is raised: the first failed stage's, or a StoppedError.
    """
    with run_lock(root):
        file = _configure(root, dict(settings or {}))
        with surveying(root, _stages(targets), force) as found:
            meanwhile()
            survey = found()
        for line in survey.mended:
            display.notice(line)
        plan, lock = survey.plan, _contents(root / versioning.LOCK_FILE)
        if file and any(not stage.cached and not stage.look for stage in plan):
            file.check()  # what the last stage would refuse is said before the first one works
        names = [stage.name for stage in plan]
        forced = frozenset(name for name in names for wish in force if wish in (name, name.split("@")[0]))
        display.planned(names)
        run: PipelineRun | None = None
        try:
            with _tracked(file.preset if file else "", names) as tracking:
                run = PipelineRun(root, plan, forced, display, tracking)
                try:
                    with run.stops_on_signals():
                        run.start_early()
                        yield run
                except HomegrownError as error:
                    run.finish()
                    if run.stopped_by or not run.error:
                        raise
                    display.notice(str(error))  # that a stage failed by itself is what the run ends with, below
                finally:
                    run.finish()
                    if _contents(root / versioning.LOCK_FILE) != lock:
                        versioning.settle_lock_order(root, survey.lock_order, names)
                if run.stopped_by:
                    raise KeyboardInterrupt  # which the record of the run takes for "killed"
                if run.error:
                    raise run.error
        except KeyboardInterrupt:
            if run is None or not run.stopped_by:
                raise
            raise RunStoppedError(run) from None


def _contents(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _stages(targets: Sequence[str]) -> list[str]:
    """Targets with the groups spelled out; `all`, alone or among others, is everything."""
    if "all" in targets:
        return []
    return [stage for target in targets for stage in GROUPS.get(target, (target,))]


def _configure(root: Path, settings: dict[str, str]) -> ParamsFile | None:
    """Rewrite params.yaml as asked, and give what is in force; nothing for a graph without parameters."""
    from pipeline import params
    from pipeline.set_params import set_values

    path = Path(os.path.relpath(root / params.PARAMS_FILE))  # as a person would name it
    if not settings and not path.exists():
        return None  # where dvc.yaml wants them, DVC says so
    if settings:
        preset = settings.pop("preset", None)
        return set_values(path, settings, preset)  # all of what was asked for, or none of it
    return params.load(path)


@contextlib.contextmanager
def _tracked(preset: str, stages: list[str]) -> Iterator[TrackedRun]:
    from pipeline.tracking import spool

    with spool.tracked_pipeline_run(preset=preset, stages=stages) as run:
        yield run
