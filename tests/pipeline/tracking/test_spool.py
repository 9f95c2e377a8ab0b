"""A run's record is lines on disk: written at once, never lost, and no tracking server in sight."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline import manifest
from pipeline.params import STAGES
from pipeline.tracking import spool

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def events(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in json.loads(line).items() if k != "time_ms"} for line in path.read_text().splitlines()]


def test_everything_a_run_says_is_a_line() -> None:
    """Start, metrics, tags, files and end stand in the order in which they were said."""
    record = spool.open_record("stage", "clean", params={"drop": True}, tags={"a": "b"}, parent="p")
    record.metrics({"loss": 2}, 7)
    record.tags({"c": "d"})
    Path("samples.json").write_text("[]")
    record.keep(Path("samples.json"), "docs")
    record.end("FINISHED")
    [kept] = spool.kept_files(record.path).rglob("samples.json")
    assert events(record.path) == [
        {
            "event": "start",
            "key": record.key,
            "kind": "stage",
            "name": "clean",
            "parent": "p",
            "pid": os.getpid(),
            "params": {"drop": "True"},
            "tags": {"a": "b"},
        },
        {"event": "metrics", "values": {"loss": 2.0}, "step": 7},
        {"event": "tags", "values": {"c": "d"}},
        {"event": "keep", "path": str(kept.resolve()), "folder": "docs"},
        {"event": "end", "status": "FINISHED"},
    ]


def test_records_wait_in_the_order_in_which_they_were_opened() -> None:
    """Delivery meets a parent before its children."""
    records = [spool.open_record("stage", name) for name in "abc"]
    assert [path.name for path in spool.waiting()] == [record.path.name for record in records]


def test_a_record_survives_its_writer(tmp_path: Path, python: Python) -> None:
    """What was said before SIGKILL is on disk, to the last line."""
    code = """\
import os, signal
from pipeline.params import STAGES
from pipeline.tracking import spool
record = spool.open_record("stage", "pretrain")
record.metrics({"loss": 1.0}, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python("-c", code, cwd=tmp_path).returncode == -9
    [path] = spool.waiting()
    assert [event["event"] for event in events(path)] == ["start", "metrics"]


def test_a_full_disk_does_not_stop_the_work(tmp_path: Path, python: Python) -> None:
    """If a line cannot be written, that is said, and the stage goes on."""
    code = """\
import resource
from pipeline.params import STAGES
from pipeline.tracking import spool
record = spool.open_record("stage", "pretrain")
resource.setrlimit(resource.RLIMIT_FSIZE, (record.path.stat().st_size, -1))
record.metrics({"loss": 1.0}, 1)
print("went on")
"""
    ended = python("-c", code, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "went on\n")
    assert ended.stderr == "the run's record could not be written (File too large); the work goes on\n"


def test_what_belongs_to_a_run_is_kept_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and folders that a later run changes or removes still wait as they were; one that is not there is named."""
    for name in ("loss.png", "docs/index.html"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("of this run")
    record = spool.open_record("stage", "validate")
    for name in ("loss.png", "docs", "nothing"):
        record.keep(Path(name))
    (tmp_path / "loss.png").write_text("of a later run")
    shutil.rmtree(tmp_path / "docs")
    loss, docs = (Path(event["path"]) for event in events(record.path)[1:])
    assert (loss.read_text(), (docs / "index.html").read_text()) == ("of this run", "of this run")
    assert capsys.readouterr().err.startswith("nothing could not be kept with the run's record (")


@pytest.fixture
def _nobody_delivers() -> Iterator[None]:
    """Hold the lock of delivery, so that no process is started for it."""
    spool.DELIVERY_LOCK.parent.mkdir(parents=True)
    with FileLock(spool.DELIVERY_LOCK):
        yield


@pytest.mark.usefixtures("_nobody_delivers")
def test_a_pipeline_run_is_the_parent_of_its_stages(python: Python, tmp_path: Path) -> None:
    """Stages learn of their parent through the environment; a cached one is noted with what it had written."""
    code = """\
from pathlib import Path
from pipeline import manifest
from pipeline.params import STAGES
from pipeline.tracking import spool
with manifest.commit(Path("data/checkpoints/spam"), "checkpoint"):
    pass
with spool.tracked_pipeline_run(preset="small", stages=["ingest", "clean"]) as run:
    run.cached("ingest")
    run.cached("finetune@spam")
    print(run.environment()["HOMEGROWN_PARENT_RUN"])
"""
    ended = python("-c", code, cwd=tmp_path)
    [path] = spool.waiting()
    start, *rest = events(path)
    assert (start["key"], start["kind"], start["name"]) == (ended.stdout.strip(), "pipeline", "pipeline-small")
    assert start["params"] == {"preset": "small", "stages": "ingest clean"}
    digest = manifest.read(Path("data/checkpoints/spam")).digest
    assert rest == [
        {"event": "cached", "stage": "ingest", "artefacts": {}},
        {"event": "cached", "stage": "finetune@spam", "artefacts": {"checkpoint": digest}},
        {"event": "end", "status": "FINISHED"},
    ]


@pytest.mark.usefixtures("_nobody_delivers")
@pytest.mark.parametrize(("how", "status"), [("ValueError", "FAILED"), ("KeyboardInterrupt", "KILLED")])
def test_a_pipeline_run_says_how_it_ended(python: Python, tmp_path: Path, how: str, status: str) -> None:
    """A fault is FAILED, Ctrl-C is KILLED, and either passes on."""
    code = f"""\
from pipeline.params import STAGES
from pipeline.tracking import spool
with spool.tracked_pipeline_run(preset="small", stages=[]):
    raise {how}
"""
    assert python("-c", code, cwd=tmp_path).returncode != 0
    assert events(spool.waiting()[0])[-1] == {"event": "end", "status": status}


def test_a_stage_s_process_never_loads_mlflow(tmp_path: Path, python: Python) -> None:
    """Recording a run, starting to deliver included, imports neither MLflow nor what it stands on."""
    code = """\
import sys
import pipeline.__main__
from pipeline.params import STAGES
from pipeline.tracking import spool
record = spool.open_record("stage", "clean")
record.metrics({"a": 1})
record.end("FINISHED")
print([name for name in ("mlflow", "sqlalchemy", "torch") if name in sys.modules])
"""
    assert python("-c", code, cwd=tmp_path).stdout == "[]\n"


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_writes_is_known_without_loading_it(stage: str) -> None:
    """It is what the module says when it is loaded."""
    assert spool._writes(stage) == importlib.import_module(f"pipeline.stages.{stage}").WRITES
