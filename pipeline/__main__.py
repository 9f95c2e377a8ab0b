"""python -m pipeline STAGE [NAME]: loads params, opens the run's record, runs the stage, turns errors into one line.

This is what dvc.yaml calls. It is the only place that knows stages, params, tracking and exit codes at once.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from pipeline import lineage, manifest, processes
from pipeline.errors import BUG_EXIT_CODE, ConfigurationError, HomegrownError, TryAgainError, machine_errors
from pipeline.params import STAGES, ParamsFile, load
from pipeline.report import SilentReport, StageReport, exit_line
from pipeline.tracking import spool

LOGS = spool.STATE / "logs"
_INTERRUPTED = 130
# A training stage whose pipeline was killed is still saving its checkpoint when somebody starts again at once.
LOCK_WAIT_SECONDS = 30.0


def main(arguments: list[str]) -> int:
    """Run one stage; its exit code. Every way a stage can end passes through here."""
    if not arguments or arguments[0] not in STAGES or len(arguments) > 2:
        print(f"usage: python -m pipeline {{{','.join(STAGES)}}} [NAME]", file=sys.stderr)
        return ConfigurationError.exit_code
    stage, name = arguments[0], arguments[1] if len(arguments) == 2 else None
    label = f"{stage}@{name}" if name else stage
    _die_with_parent()
    # How long an OpenMP thread spins before it sleeps. Always asleep (OMP_WAIT_POLICY=PASSIVE) a step of the default
    # training takes 0.49 to 0.68 s on two cores, with this 0.36 s; beside a program that keeps one core busy 0.6 and
    # 1.1 s, where threads that spin for ever take 2.8 s. It must be set before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        with machine_errors(label):
            if stage in processes.PARALLEL_STAGES and (wanted := processes.wanted(load().compute())):
                return processes.run_in_processes(arguments, wanted)
            _run(stage, name, label)
    except HomegrownError as error:
        return _end(error.exit_code, " ".join(str(error).split()))
    except KeyboardInterrupt:
        return _end(_INTERRUPTED, f"{label}: stopped; nothing half-made is left, run again to do it")
    except Exception as error:
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f"{label}.traceback.txt"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        if os.environ.get("HOMEGROWN_DEBUG"):
            traceback.print_exc()
        message = (
            f"{label}: {type(error).__name__}, a fault of the program; the traceback is in {log}, please report it"
        )
        return _end(BUG_EXIT_CODE, message)
    return 0


def _end(code: int, message: str) -> int:
    """Say how the stage ended; of several processes only the first that ends does."""
    if processes.first_to_end(code):
        print(f"homegrown: {message}", file=sys.stderr, flush=True)
        exit_line(code, message)
    return code


def _run(stage: str, name: str | None, label: str) -> None:
    file = load()
    params = file.stage(stage, name)
    module = importlib.import_module(f"pipeline.stages.{stage}")
    _check_name(stage, name, module, file)
    paths = {key: Path(resolve(path, file, name)) for key, path in (*module.READS.items(), *module.WRITES.items())}
    if processes.rank() > 0:
        _run_beside(module, params, paths, name, file)
        return
    lock_path = spool.STATE / "locks" / f"{label}.lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A killed `dvc repro` leaves its stage alive and writing; this lock is what a second one then meets.
        with FileLock(lock_path, timeout=LOCK_WAIT_SECONDS):
            _run_recorded(module, label, params, paths, name, file)
    except Timeout:
        raise TryAgainError(f"{label}: another process is running this stage; wait for it or stop it") from None


def _run_beside(module: Any, params: Any, paths: dict[str, Path], name: str | None, file: ParamsFile) -> None:
    """Do the part of one of several processes that is not the first: compute, and say nothing."""
    module.run(params, **paths, **_offered(module, name, file), report=SilentReport())


def _offered(module: Any, name: str | None, file: ParamsFile) -> dict[str, Any]:
    """Of what every stage may ask for, what this one does."""
    offered = {"compute": file.compute(), "name": name, "models": file.models}
    wanted = inspect.signature(module.run).parameters
    return {key: value for key, value in offered.items() if key in wanted}


def _check_name(stage: str, name: str | None, module: Any, file: ParamsFile) -> None:
    """Refuse a stage of one model without its name, any other stage with one, and the name of no model."""
    of_one_model = any("${name}" in path for path in (*module.READS.values(), *module.WRITES.values()))
    if name and not of_one_model:
        raise ConfigurationError(f"{stage}: takes no name, found {name!r}")
    if of_one_model and not name:
        raise ConfigurationError(f"{stage}: which model? known: {', '.join(file.models)}")
    if name:
        file.require_model(name)


def _run_recorded(
    module: Any, label: str, params: Any, paths: dict[str, Path], name: str | None, file: ParamsFile
) -> None:
    parent = os.environ.get(spool.PARENT_VARIABLE)
    record = spool.open_record("stage", label, params=asdict(params), tags=_code_tags(file), parent=parent)
    if parent is None:
        spool.start_delivery()
    report = StageReport(label, record)
    status: spool.Status = "FAILED"
    try:
        module.run(params, **paths, **_offered(module, name, file), report=report)
        status = "FINISHED"
        for key in module.WRITES:
            if (paths[key] / manifest.MANIFEST).exists():
                record.tags({f"homegrown.artefact.{key}": manifest.read(paths[key]).digest})
    except (KeyboardInterrupt, TryAgainError):
        status = "KILLED"
        raise
    finally:
        report.close()
        record.end(status)


def resolve(path: str, file: ParamsFile, name: str | None) -> str:
    """A path of READS or WRITES with `${name}`, `${start}` and `${section.key}` filled in.

    `${start}` is the model from which the fine-tuned one starts; a key is that of the base section.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] == "name":
            return str(name)
        if match[1] == "start":
            return str(file.values("finetune", name)["start"])
        section, key = match[1].split(".")
        return str(file.content[section][key])

    return re.sub(r"\$\{([\w.]+)\}", value, path)


def _code_tags(file: ParamsFile) -> dict[str, str]:
    """Which code ran: the commit, and whether the tree differs from it."""
    tags = {"homegrown.preset": file.preset}
    commit, changed = lineage.commit_id()
    if commit == lineage.NO_GIT:
        return {**tags, "homegrown.uncommitted_changes": "no git"}
    return {**tags, "homegrown.uncommitted_changes": str(changed), "mlflow.source.git.commit": commit}


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a stage the way Ctrl-C does; a stage with something to save catches it."""
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """On Linux, ask for SIGTERM when the parent dies: a killed dvc must not leave this process writing."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
