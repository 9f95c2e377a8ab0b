"""Goes in: a project's folder. Comes out: DVC's graph of it, what of it is out of date, how to remake a stage.

DVC alone decides whether a stage has work to do. One pass in this process (`survey`) answers for everything that can
be known before anything runs; a stage below one that runs is decided by DVC again when its turn comes.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import dvc_shortcuts
from pipeline.errors import ConfigurationError, DataError, HomegrownError, InputOutputError, TryAgainError

LOCK_FILE = "dvc.lock"
_TMP = Path(".dvc") / "tmp"
_GUARD_TRIES, _GUARD_PAUSE_SECONDS = 20, 0.25


class BusyError(TryAgainError):
    """Another DVC process holds what is needed; it is likely to be free in a moment."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, as DVC sees it before a run."""

    name: str
    """DVC's address of it, such as `finetune@spam`."""
    upstreams: tuple[str, ...]
    """The stages whose outputs it reads."""
    cached: bool
    """Neither it nor anything above it has work to do: its outputs are what a run would make."""
    ready: bool
    """It has work to do and nothing to wait for: all above it is cached."""
    look: str = ""
    """The command of a stage that always runs, if it is ready and DVC would leave dvc.lock as it is after running it.

    Such a stage only looks at something outside, as into a registry. Its command can be run without DVC around it,
    which saves the second that DVC takes to start: half of what a cached run may cost.
    """


def survey(root: Path, targets: Iterable[str] = (), force: Iterable[str] = ()) -> list[Stage]:
    """The stages of the graph in the order of `dvc repro`, each with what DVC thinks of it now.

    `targets` are stages, or the names of a `foreach` (`finetune` for all of its models); with them, the graph is they
    and all they need. `force` names stages to run whether changed or not. An unknown name is a ConfigurationError with
    the nearest known one, a broken dvc.yaml a ConfigurationError with DVC's reason, a busy repository a BusyError.
    """
    with _repository(root) as repo:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        graph = get_active_graph(repo.index.graph)
        known = [_name(stage) for stage in graph if not stage.is_data_source]
        forced = set(_resolve(force, known))
        wanted = set(_resolve(targets, known))
        # DVC lists a dvc.yaml's stages in the file's order, and walks the graph from each in turn.
        listed = [stage for stage in repo.index.stages if not wanted or _name(stage) in wanted]
        stages: list[Stage] = []
        settled: dict[str, bool] = {}
        for node in plan_repro(graph, listed):
            if node.is_data_source:
                continue
            name = _name(node)
            upstreams = tuple(sorted(_name(s) for s in graph.successors(node) if not s.is_data_source))
            changed = name in forced or bool(node.changed())
            quiet_above = all(settled[above] for above in upstreams)
            settled[name] = quiet_above and not changed
            ready = quiet_above and changed
            looks = ready and node.always_changed and name not in forced and _locked_as_is(node)
            stages.append(Stage(name, upstreams, settled[name], ready, str(node.cmd) if looks else ""))
        return stages


def reproduce_command(stage: str, force: bool = False) -> list[str]:
    """The command that lets DVC bring one stage up to date, waiting for another DVC process if it must."""
    # -P: no file of the project is ever mistaken for a module of DVC's.
    dvc = [sys.executable, "-P", dvc_shortcuts.__file__, "--wait-for-lock"]
    return [*dvc, "repro", "--single-item", *["--force"] * force, stage]


def look_command(command: str) -> list[str]:
    """The command that runs a stage's own command as DVC does."""
    return ["/bin/sh", "-c", command]


def reproduce_environment() -> dict[str, str]:
    """This environment for DVC and the stage under it: `python` in dvc.yaml is the python that runs us."""
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != here:
        path = os.pathsep.join((here, path))
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


def ran(stage: str, line: str) -> bool:
    """Whether this line of DVC's says that the stage's command is being run, not skipped or fetched from the cache."""
    return line.rstrip() == f"Running stage '{stage}':"


_CHATTER = re.compile(
    r"^(Running stage '.*':|Stage '.*' didn't change, skipping|Stage '.*' is cached - skipping run.*"
    r"|'.*' didn't change, skipping|(Generating|Updating) lock file .*|Data and pipelines are up to date\."
    r"|To (track the changes with git|enable auto staging), run:|\tgit add .*|\tdvc config .*|Use `dvc push` .*|\s*)$"
)


def is_chatter(line: str) -> bool:
    """Whether a line is DVC's own, of no interest to a person who watches the stages."""
    return bool(_CHATTER.match(line))


def failure(stage: str, lines: Sequence[str], status: int, directly: bool = False) -> tuple[int | None, HomegrownError]:
    """From DVC's output and exit status: the command's own exit status if it ran, and the error to raise.

    With `directly` the command was run without DVC, and the status is its own.
    """
    said = " ".join(line.strip() for line in lines if line.startswith("ERROR:")).removeprefix("ERROR: ")
    reason = said.split(f"failed to reproduce '{stage}': ", 1)[-1]
    found = re.search(r"failed to run: .*, exited with (-?\d+)", said)
    if found or directly:
        code = int(found[1]) if found else status
        signal_number = -code if code < 0 else code - 128 if code > 128 else 0
        if signal_number == 9:
            return code, InputOutputError(
                f"{stage}: killed by the system, most likely for lack of memory; free some or lower its batch size"
            )
        return code, HomegrownError(f"{stage}: its command exited with {code}")
    if "Unable to acquire lock" in said or "is busy, it is being blocked by" in said:
        return None, BusyError(f"{stage}: another DVC process is at work in this folder; run again when it has ended")
    if "[Errno 28]" in said or "No space left" in said:
        return None, InputOutputError(f"{stage}: the disk is full; free some space and run again")
    missing = re.search(r"\[Errno 2\] No such file or directory: '(.*)'|missing data 'source': (\S+)", said)
    if missing and stage == "ingest":  # what this stage reads is the user's; what others read, stages made
        place = next(filter(None, missing.groups()))
        return None, ConfigurationError(
            f"ingest: {place} is not there; put it back, or set ingest.texts in params.yaml to what is"
        )
    if missing or "does not exist" in said:
        return None, DataError(f"{stage}: {reason}")
    return None, HomegrownError(f"{stage}: dvc exited with {status}: {reason or 'it gave no reason'}")


def lock_order(root: Path) -> list[str]:
    """The stages of dvc.lock in the file's order."""
    return list(_lock_entries(root))


def settle_lock_order(root: Path, before: Sequence[str], plan: Sequence[str]) -> None:
    """Put the entries that a run added to dvc.lock into the order `dvc repro` would have added them in.

    DVC appends a stage when it ends, so stages side by side would leave the order to chance. `before` is the order at
    the start of the run, `plan` the order of `dvc repro`.
    """
    path = root / LOCK_FILE
    now = lock_order(root)
    kept = [name for name in before if name in now]
    added = sorted((n for n in now if n not in kept), key=lambda n: plan.index(n) if n in plan else len(plan))
    if [*kept, *added] == now:
        return
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    with _repository(root):
        content = parse_yaml_for_update(path.read_text(encoding="utf-8"), str(path))
        entries = dict(content["stages"])
        for name in entries:
            del content["stages"][name]
        for name in [*kept, *added]:
            content["stages"][name] = entries[name]
        partial = path.with_name(f".{LOCK_FILE}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(dumps_yaml(content))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def repair(root: Path) -> list[str]:
    """Mend what a killed DVC can leave behind; one line for each thing mended.

    DVC's list of readers and writers is dropped if it cannot be read, and freed of processes that are gone. DVC does
    that itself, but takes a zombie, or another process that was given the same number since, for one that lives. An
    unreadable dvc.lock is put aside: DVC's run cache knows every finished stage by its inputs, so nothing is computed
    twice.
    """
    mended = []
    readers = root / _TMP / "rwlock"
    if readers.exists() and _living_users(readers) != _json_object(readers):
        with _guard(root / _TMP / "rwlock.lock"):
            # DVC truncates the file before it writes; under its guard a half-written one is a dead one.
            users, living = _json_object(readers), _living_users(readers)
            if users is None:
                readers.unlink(missing_ok=True)
                mended.append("removed .dvc/tmp/rwlock, which a killed process left unreadable")
            elif users != living:
                readers.write_text(json.dumps(living), encoding="utf-8")
                mended.append("freed what a killed DVC process still held in .dvc/tmp/rwlock")
    lock = root / LOCK_FILE
    if lock.exists() and not _readable_lock(lock):
        with _guard(root / _TMP / "lock"):
            if lock.exists() and not _readable_lock(lock):
                aside = root / _TMP / f"{LOCK_FILE}.unreadable"
                lock.replace(aside)
                mended.append(
                    f"put aside {LOCK_FILE}, which a killed process left unreadable ({aside.relative_to(root)}); "
                    "finished stages come back from DVC's cache"
                )
    return mended


def state(root: Path) -> dict[str, Any]:
    """What `homegrown doctor` wants to know: whether DVC and git are set up here, and how much the cache holds."""
    cache = root / ".dvc" / "cache"
    files = [path for path in cache.rglob("*") if path.is_file()] if cache.is_dir() else []
    return {
        "initialised": (root / ".dvc").is_dir(),
        "dvc_yaml": (root / "dvc.yaml").is_file(),
        "locked_stages": len(_lock_entries(root)) if _readable_lock(root / LOCK_FILE) else 0,
        "lock_readable": not (root / LOCK_FILE).exists() or _readable_lock(root / LOCK_FILE),
        "rwlock_readable": not (root / _TMP / "rwlock").exists() or _json_object(root / _TMP / "rwlock") is not None,
        "cache_bytes": sum(path.stat().st_size for path in files),
        "git": (root / ".git").exists(),
    }


def forget_old_outputs(root: Path) -> None:
    """Remove every output of an earlier run from the cache, and every note of one; what stands in data/ is kept."""
    command = [sys.executable, "-Pm", "dvc", "--wait-for-lock", "gc", "--workspace", "--force"]
    environment = reproduce_environment()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise InputOutputError(f"dvc gc --workspace --force: exit {done.returncode}: {said}")


def _locked_as_is(node: Any) -> bool:
    """Whether dvc.lock already says of a stage what it would say after a run that writes nothing new."""
    return not node.outs and not node.changed_stage() and not any(dep.status() for dep in node.deps)


def _name(node: Any) -> str:
    """DVC's address of a stage as seen from the project's folder, wherever this process stands."""
    return str(getattr(node, "name", None) or node.addressing)


def _resolve(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Stage addresses for what a person typed; `finetune` stands for every `finetune@…`."""
    resolved: list[str] = []
    for name in names:
        matches = [stage for stage in known if name in (stage, stage.split("@")[0])]
        if not matches:
            words = sorted({word for stage in known for word in (stage, stage.split("@")[0])})
            near = difflib.get_close_matches(name, words, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ConfigurationError(f"there is no stage {name!r}{hint}")
        resolved += matches
    return resolved


@contextmanager
def _repository(root: Path) -> Iterator[Any]:
    """DVC's repository under its lock, its errors turned into ours and its talk kept off the terminal."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        repo = Repo(str(root))
        try:
            with repo.lock:  # DVC itself waits a few seconds for it
                repo._reset()
                yield repo
        finally:
            repo.close()
    except NotDvcRepoError as error:
        raise ConfigurationError(f"{root}: not a DVC project; run `dvc init` in it") from error
    except LockError as error:
        raise BusyError("another DVC process is at work in this folder; run again when it has ended") from error
    except DvcException as error:
        raise ConfigurationError(_one_line(error)) from error


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """One of DVC's own lock files, waited for a few seconds."""
    import zc.lockfile

    for remaining in range(_GUARD_TRIES, -1, -1):
        try:
            held = zc.lockfile.LockFile(str(path))
            break
        except zc.lockfile.LockError as error:
            if not remaining:
                raise BusyError("another DVC process is at work in this folder; run again when it has ended") from error
            time.sleep(_GUARD_PAUSE_SECONDS)
    try:
        yield
    finally:
        held.close()


def _lock_entries(root: Path) -> dict[str, Any]:
    from dvc.utils.serialize import load_yaml

    path = root / LOCK_FILE
    return dict((load_yaml(str(path)) or {}).get("stages") or {}) if path.exists() else {}


def _json_object(path: Path) -> dict[str, Any] | None:
    """A file's JSON object; None if there is no such thing in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _living_users(path: Path) -> dict[str, Any]:
    """DVC's list of who reads and writes which files, without the processes that are gone."""
    users = _json_object(path) or {}
    written = path.stat().st_mtime if path.exists() else 0.0
    reading = {
        file: living
        for file, readers in (users.get("read") or {}).items()
        if (living := [reader for reader in readers if _lives(reader["pid"], written)])
    }
    writing = {file: user for file, user in (users.get("write") or {}).items() if _lives(user["pid"], written)}
    return {
        **users,
        **({"read": reading} if "read" in users else {}),
        **({"write": writing} if "write" in users else {}),
    }


def _lives(pid: int, before: float) -> bool:
    """Whether a process of that number lives and was there before that time."""
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= before + 1)
    except psutil.Error:
        return False


def _readable_lock(path: Path) -> bool:
    """Whether DVC's own schema accepts the file."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import load_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path)))
    except (OSError, UnicodeDecodeError, DvcException, Invalid):
        return False
    return True


def _one_line(error: Exception) -> str:
    """An exception of DVC's, with those it came from, as one line."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split())
        if text and not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    return ": ".join(parts) or type(error).__name__
