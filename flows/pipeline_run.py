"""Goes in: targets and what to force. Comes out: one run of the pipeline, prepared: locked, mended, planned, recorded.

Everything of a run that needs no Prefect is here, so that it can be done (or refused) before Prefect is loaded, which
takes a second or two: the registry check of a cached run, or a new project's first stages, need not wait for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flows.display import Display
from flows.project import STATE
from flows.stage_process import StageProcess, StoppedError
from flows.surveyor import surveying
from pipeline import versioning
from pipeline.errors import ConfigurationError, HomegrownError, TryAgainError
from pipeline.processor import HALVES

if TYPE_CHECKING:
    from pipeline.params import ParamsFile

State = Literal["cached", "done", "failed", "stopped", "not run"]
LOCKS = STATE / "locks"
# What a person may ask for instead of naming stages; everything they need runs with them.
GROUPS: dict[str, tuple[str, ...]] = {
    "corpus": ("validate", "tokenize"),
    "training": ("evaluate",),
    "release": ("register",),
    "all": (),
}


class TrackedRun(Protocol):
    """What the tracking spool gives: the parent of the stages' runs."""

    def environment(self) -> dict[str, str]:
        """What a stage must find in its environment to record itself below this run."""

    def cached(self, stage: str) -> None:
        """Record that a stage had nothing to do."""


@dataclass(frozen=True)
class Outcome:
    """What became of one stage in one run."""

    stage: str
    state: State
    seconds: float = 0.0
    error: HomegrownError | None = None


@dataclass
class PipelineRun:
    """One run: its plan, the processes that are at work, and what has become of each stage so far."""

    root: Path
    plan: list[versioning.Stage]
    force: frozenset[str]
    display: Display
    tracking: TrackedRun
    started: float = field(default_factory=time.monotonic)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    stopped_by: signal.Signals | None = None
    _processes: dict[str, StageProcess] = field(default_factory=dict)
    _early: dict[str, StageProcess] = field(default_factory=dict)
    _taken_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _working: set[str] = field(default_factory=set)

    def stage(self, name: str) -> versioning.Stage:
        """The plan's entry of that name."""
        return next(stage for stage in self.plan if stage.name == name)

    def start_early(self) -> None:
        """Start the first stage that waits for nothing, and after it the next ones, for as long as Prefect is not up.

        A project's first server takes half a minute; the machine would be idle for most of it.
        """
        if any(stage.ready for stage in self.plan):
            threading.Thread(target=self._go_ahead, daemon=True).start()

    def _go_ahead(self) -> None:
        """Bring stages up to date one after another, until one fails or `reproduce` is called for any."""
        up_to_date = {stage.name for stage in self.plan if stage.cached}
        for stage in self.plan:
            if stage.cached or not up_to_date.issuperset(stage.upstreams):
                continue
            with self._lock:
                if self._taken_over or self.stopped_by:
                    return
                process = self._early[stage.name] = self._launch(stage.name)
            if process.wait():
                return
            up_to_date.add(stage.name)

    def reproduce(self, name: str, log: Any) -> Outcome:
        """Let DVC bring one stage up to date, its lines shown and logged; raises what the stage ended with.

        As many do so at once as the processor has parts to give; further ones wait here for one to end.
        """
        with self._turn:
            while not self._has_its_turn(name):
                self._turn.wait(0.5)  # a signal that stops the run notifies nobody
            self._working.add(name)
        try:
            return self._reproduce(name, log)
        finally:
            with self._turn:
                self._working.discard(name)
                self._turn.notify_all()

    def _has_its_turn(self, name: str) -> bool:
        """Whether a stage may begin: of those that could, the first in the plan do, whichever thread came first.

        The plan's order is dvc.yaml's, where long trainings stand before what is short.
        """
        if self.stopped_by:
            return True
        outcomes = list(self.outcomes.values())
        up_to_date = {outcome.stage for outcome in outcomes if outcome.state in ("done", "cached")}
        at_work = self._working | self._early.keys()
        begun = {outcome.stage for outcome in outcomes} | at_work
        able = [s.name for s in self.plan if s.name not in begun and up_to_date.issuperset(s.upstreams)]
        free = HALVES - len(at_work)
        return name in self._early or (free > 0 and name not in able[free:])

    def _reproduce(self, name: str, log: Any) -> Outcome:
        with self._lock:
            self._taken_over = True
            process = self._early.pop(name, None)
            if process is None and self.stopped_by:
                raise StoppedError(f"{name}: not started", saved=False)
            process = process or self._launch(name)
        self.display.started(name)
        for event in process.events():
            if isinstance(event, dict):
                self.display.progress(name, event)
            elif event.strip():
                self.display.line(name, event)
                log(event)
        ending = process.end()
        with self._lock:
            self._processes.pop(name, None)
        if ending.error:
            raise ending.error
        outcome = Outcome(name, "done" if ending.ran else "cached", process.seconds)
        self.settle(outcome)
        return outcome

    def settle(self, outcome: Outcome) -> None:
        """Note what became of a stage, here, on the screen and in the tracked run."""
        with self._turn:
            self.outcomes[outcome.stage] = outcome
            self._turn.notify_all()
        self.display.ended(outcome.stage, outcome.state, outcome.seconds, str(outcome.error or ""))
        if outcome.state == "cached":
            self.tracking.cached(outcome.stage)

    def finish(self) -> None:
        """End what is still at work, mark what never began, and put dvc.lock in order."""
        with self._lock:
            self._taken_over = True
        for name, process in self._early.items():
            if process.running:
                process.stop()
            elif not (ending := process.end()).error:
                self.settle(Outcome(name, "done" if ending.ran else "cached", process.seconds))
        self._early.clear()
        for stage in self.plan:
            if stage.name not in self.outcomes:
                self.settle(Outcome(stage.name, "not run"))

    @property
    def error(self) -> HomegrownError | None:
        """Why the run did not reach its end: the first stage's error, or that it was stopped."""
        errors = [outcome.error for outcome in self.outcomes.values() if outcome.error]
        return next((e for e in errors if not isinstance(e, StoppedError)), errors[0] if errors else None)

    def stop(self, number: signal.Signals) -> None:
        """Ask every working stage to save and end; returns at once. Asked again, kill them and leave."""
        if self.stopped_by:
            for process in list(self._processes.values()):
                process.kill()
            os._exit(128 + number)
        self.stopped_by = number
        # In threads, because a signal may arrive in the middle of a print.
        notice = "stopping: working stages save what they can (once more to end at once) …"
        threading.Thread(target=self.display.notice, args=(notice,), daemon=True).start()
        for process in list(self._processes.values()):
            threading.Thread(target=process.stop, daemon=True).start()

    @contextlib.contextmanager
    def stops_on_signals(self) -> Iterator[None]:
        """While this holds, Ctrl-C and SIGTERM stop the stages and let the run end in order. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, frame: FrameType | None) -> None:
            self.stop(signal.Signals(number))

        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, action in previous.items():
                signal.signal(number, action)

    def _launch(self, name: str) -> StageProcess:
        look = self.stage(name).look
        process = StageProcess(self.root, name, self.tracking.environment(), force=name in self.force, look=look)
        self._processes[name] = process
        if self.stopped_by:  # the signal came while it was being started
            threading.Thread(target=process.stop, daemon=True).start()
        return process


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

    path = Path(os.path.relpath(root / params.PARAMS_FILE))  # as a person would name it
    if not settings and not path.exists():
        return None  # where dvc.yaml wants them, DVC says so
    before = _contents(path)
    try:
        preset = settings.pop("preset", None)
        if preset is not None:
            params.set_preset(path, preset)
        if settings:
            params.set_values(path, settings)
        return params.load(path)
    except ConfigurationError:
        if before and path.read_bytes() != before:
            path.write_bytes(before)  # all of what was asked for, or none of it
        raise


@contextlib.contextmanager
def _tracked(preset: str, stages: list[str]) -> Iterator[TrackedRun]:
    from pipeline.tracking import spool

    with spool.tracked_pipeline_run(preset=preset, stages=stages) as run:
        yield run
