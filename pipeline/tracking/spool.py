"""Goes in: what a run has to say. Comes out: a line on disk for each, for delivery to carry to MLflow.

A tracking server that is slow or gone blocks its caller for minutes, so no stage ever talks to one. It appends to a
file of its own under .homegrown/spool, which survives a kill, and delivery (another process) replays what is there.
This module does not import MLflow: writing a line costs microseconds.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pipeline import manifest
from pipeline.params import STAGES

STATE = Path(".homegrown")
SPOOL = STATE / "spool"
DELIVERY_LOCK = STATE / "locks" / "delivery.lock"
DELIVERY_LOG = STATE / "logs" / "delivery.log"
PARENT_VARIABLE = "HOMEGROWN_PARENT_RUN"
_STAGES = Path(__file__).parents[1] / "stages"

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunRecord:
    """The open record of one run. `key` is its name for life, in the spool and as a tag in MLflow."""

    key: str
    path: Path

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, at a step of their curve if there is one."""
        self._write("metrics", values={k: float(v) for k, v in values.items()}, step=step or 0)

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self._write("tags", values=dict(values))

    def cached(self, stage: str, artefacts: Mapping[str, str]) -> None:
        """Record that a stage did not run, since what it would write is there."""
        self._write("cached", stage=stage, artefacts=dict(artefacts))

    def keep(self, path: Path, folder: str = "") -> None:
        """Record that a file or folder belongs to the run, as it is now: a copy of it waits in the spool.

        A later run may have changed or removed it when MLflow can be reached again. What is kept is small, and some
        of it is rewritten in place, which a link would follow.
        """
        try:
            beside = kept_files(self.path)
            beside.mkdir(exist_ok=True)
            copied = Path(tempfile.mkdtemp(dir=beside)) / path.name
            if path.is_dir():
                shutil.copytree(path, copied)
            else:
                shutil.copy(path, copied)
        except OSError as error:
            print(f"{path} could not be kept with the run's record ({error}); the work goes on", file=sys.stderr)
            return
        self._write("keep", path=str(copied.resolve()), folder=folder)

    def end(self, status: Status) -> None:
        """Close the record."""
        self._write("end", status=status)

    def _write(self, event: str, **fields: Any) -> None:
        """Append one whole line; a full disk must not stop the work that is being recorded."""
        line = json.dumps({"event": event, "time_ms": time.time_ns() // 1_000_000, **fields}) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            print(f"the run's record could not be written ({error.strerror}); the work goes on", file=sys.stderr)


def open_record(
    kind: Literal["pipeline", "stage"],
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
) -> RunRecord:
    """Open the record of a run; `parent` is the key of the pipeline run it belongs to."""
    SPOOL.mkdir(parents=True, exist_ok=True)
    key = uuid.uuid4().hex
    record = RunRecord(key, SPOOL / f"{time.time_ns():020d}-{key}.jsonl")
    record._write(
        "start",
        key=key,
        kind=kind,
        name=name,
        parent=parent,
        pid=os.getpid(),
        params={k: str(v) for k, v in (params or {}).items()},
        tags=dict(tags or {}),
    )
    return record


@dataclass(frozen=True)
class PipelineRun:
    """A run of the whole pipeline, the parent of its stages' runs."""

    record: RunRecord

    def environment(self) -> dict[str, str]:
        """What a stage's process needs to know to become a child of this run."""
        return {PARENT_VARIABLE: self.record.key}

    def cached(self, stage: str) -> None:
        """Note that DVC found this stage unchanged, and by digest what it had written when it last ran."""
        self.record.cached(stage, _artefacts(stage))


def _artefacts(stage: str) -> dict[str, str]:
    """What the stage writes, by name, as digests of what is there now."""
    kind, _, model = stage.partition("@")
    if kind not in STAGES:
        return {}
    folders = {name: Path(path.replace("${name}", model)) for name, path in _writes(kind).items()}
    return {
        name: manifest.read(folder).digest for name, folder in folders.items() if (folder / manifest.MANIFEST).exists()
    }


def _writes(kind: str) -> dict[str, str]:
    """A stage's WRITES, read and not imported: all stages' libraries take half a second, a tenth of a cached run."""
    module = ast.parse((_STAGES / f"{kind}.py").read_bytes())
    assigned = (node for node in module.body if isinstance(node, ast.Assign | ast.AnnAssign))
    for node in assigned:
        [target] = node.targets if isinstance(node, ast.Assign) else [node.target]
        if isinstance(target, ast.Name) and target.id == "WRITES" and node.value:
            writes: dict[str, str] = ast.literal_eval(node.value)
            return writes
    raise AssertionError(f"{kind} does not say what it writes")


@contextmanager
def tracked_pipeline_run(
    *, preset: str, stages: list[str], tags: Mapping[str, str] | None = None
) -> Iterator[PipelineRun]:
    """Record a pipeline run from here to the end of the block, with delivery at work in the background."""
    record = open_record(
        "pipeline", f"pipeline-{preset}", params={"preset": preset, "stages": " ".join(stages)}, tags=tags
    )
    start_delivery()
    status: Status = "FAILED"
    try:
        yield PipelineRun(record)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        record.end(status)


def start_delivery() -> None:
    """Start the delivering process unless one is at work. It ends by itself when everything is delivered."""
    if delivery_is_running():
        return
    DELIVERY_LOG.parent.mkdir(parents=True, exist_ok=True)
    with DELIVERY_LOG.open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A session of its own: Ctrl-C ends the pipeline, not the delivery of what it has recorded.
            start_new_session=True,
        )


def delivery_is_running() -> bool:
    """Whether some process holds the delivery lock."""
    DELIVERY_LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(DELIVERY_LOCK, timeout=0):
            return False
    except Timeout:
        return True


def kept_files(record: Path) -> Path:
    """The folder beside a record with the files that belong to its run."""
    return record.with_suffix(".files")


def waiting() -> list[Path]:
    """The records that are not wholly delivered yet, oldest first."""
    return sorted(SPOOL.glob("*.jsonl"))
