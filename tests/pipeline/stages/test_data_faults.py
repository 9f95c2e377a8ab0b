"""Killed, out of disk, out of descriptors: nothing torn is ever visible, and running again gives the same bytes."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import manifest
from pipeline.params import load
from tests.pipeline.conftest import REPOSITORY, SMALL

Python = Callable[..., subprocess.CompletedProcess[str]]
STAGES = ("ingest", "clean", "tokenize")
CALLS = 180  # more than any of them makes

# Loads a stage once, then runs it in forks of itself: one that meets the fault, then one that does not. It prints, for
# each fault, how the first one ended, what was then to be seen of the outputs, and their digests after the second.
DRIVER = """\
import importlib, inspect, json, os, pathlib, resource, shutil, signal, sys, time
from pathlib import Path
import pyarrow.compute, pyarrow.parquet
from pipeline import manifest
from pipeline.errors import HomegrownError, machine_errors
from pipeline.params import Compute, build
task = json.loads(sys.argv[1])
module = importlib.import_module("pipeline.stages." + task["stage"])
params = build(module.Params, task["values"], task["stage"])
paths = {key: Path(path) for key, path in task["paths"].items()}
outputs = [paths[key] for key in module.WRITES]
if "compute" in inspect.signature(module.run).parameters:
    paths["compute"] = Compute("cpu", 1, 3600)
class Quiet:
    def __getattr__(self, name):
        return lambda *arguments, **options: None
def fork(prepare=lambda: None):
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return pid, reading
    os.close(reading)
    code, said = 0, ""
    try:
        with machine_errors(task["stage"]):
            prepare()
            module.run(params, **paths, report=Quiet())
    except HomegrownError as error:
        code, said = error.exit_code, str(error)
    except BaseException as error:
        code, said = 70, repr(error)
    os.write(writing, said.encode())
    os._exit(code)
def ended(process):
    pid, reading = process
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(reading) as pipe:
        return code, pipe.read()
def seen():
    return {path.as_posix(): manifest.verify(path).digest for path in outputs if path.exists()}
def leftovers():
    return sorted(str(p) for p in Path("data").rglob(".partial-*"))
def forget():
    for path in (*outputs, Path("data/scratch")):
        shutil.rmtree(path, ignore_errors=True)
def call(number):
    def prepare():
        left = number
        def counting(function):
            def counted(*arguments, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)
            return counted
        os.fsync, shutil.rmtree = counting(os.fsync), counting(shutil.rmtree)
        for name in ("mkdir", "rename", "write_text"):
            setattr(Path, name, counting(getattr(Path, name)))
    return ended(fork(prepare))
def instant(seconds):
    process = fork()
    time.sleep(seconds)
    os.kill(process[0], signal.SIGKILL)
    return ended(process)
def mid_shard(number):
    def prepare():
        write = Path.write_bytes
        left = number
        def torn(path, content):
            nonlocal left
            left -= "-of-" in path.name
            if left:
                return write(path, content)
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        Path.write_bytes = torn
    return ended(fork(prepare))
def file_size(limit):
    return ended(fork(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
def descriptors(more):
    used = len(os.listdir("/proc/self/fd"))
    return ended(fork(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, used + more))))
def full_disk(free):
    with open("data/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            filler.truncate(max(0, filler.tell() - free))
    result = ended(fork())
    os.unlink("data/filler")
    return result
for kind, value, from_nothing in task["faults"]:
    if from_nothing:
        forget()
    shutil.rmtree("data/scratch", ignore_errors=True)
    code, said = globals()[kind](value)
    report = {"fault": [kind, value], "code": code, "said": said, "seen": seen(), "leftovers": leftovers()}
    again = ended(fork())
    report |= {"again": again, "then": seen(), "left": leftovers()}
    print(json.dumps(report), flush=True)
"""


Fault = tuple[str, Any, bool]  # what happens, when or how much, and whether the outputs are removed before


def task_of(stage: str, faults: list[Fault]) -> str:
    """What DRIVER is told, paths relative to the project."""
    module = importlib.import_module(f"pipeline.stages.{stage}")
    paths = {k: p.replace("${ingest.texts}", "texts") for k, p in {**module.READS, **module.WRITES}.items()}
    values = {**load(REPOSITORY / "params.yaml").values(stage), **SMALL.get(stage, {})}
    return json.dumps({"stage": stage, "values": values, "paths": paths, "faults": faults})


def wanted(project: Any, stage: str) -> dict[str, str]:
    """The digests of the stage's outputs after an uninterrupted run."""
    module = importlib.import_module(f"pipeline.stages.{stage}")
    return {path: manifest.read(project.root / path).digest for path in module.WRITES.values()}


def reports(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    return found


def check(project: Any, python: Python, stage: str, faults: list[Fault]) -> list[dict[str, Any]]:
    """After each fault: whole outputs or none. After running again: the bytes of an uninterrupted run, and no more."""
    digests = wanted(project, stage)
    # Two runs a fault, on whatever machine and beside whatever else.
    found = reports(python("-c", DRIVER, task_of(stage, faults), cwd=project.root, timeout=120 + 3 * len(faults)))
    for report in found:
        assert report["seen"].items() <= digests.items(), report
        assert (report["again"], report["then"], report["left"]) == ([0, ""], digests, []), report
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_needs_no_repair(made: Any, python: Python, stage: str) -> None:
    """Killed at seeded calls and moments, or at a limit of the machine (74, with advice and a path): run again."""
    chance = random.Random(stage)
    faults: list[Fault] = [("call", number, number % 2 == 0) for number in chance.sample(range(1, 25), 4)]
    faults += [("instant", chance.uniform(0, 0.1), False) for _ in range(2)]
    # Half a shard is on disk when the process dies.
    faults += [("mid_shard", 1, True), ("mid_shard", 2, False)] if stage == "tokenize" else []
    for report in check(made, python, stage, faults):
        assert report["code"] in (-9, 0), report
    size, files = check(made, python, stage, [("file_size", 1500, False), ("descriptors", 1, False)])
    assert size["leftovers"] == []
    for report, advice in ((size, "ulimit -f"), (files, "ulimit -n")):
        assert (report["code"], advice in report["said"]) == (74, True), report
        assert any(place in report["said"] for place in ("data/", "texts/", "pipeline/")), report
        assert report["seen"] == wanted(made, stage)


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES)
def test_no_kill_anywhere_needs_a_repair(made: Any, python: Python, stage: str) -> None:
    """SIGKILL at every fsync, rename, mkdir and rmtree in turn, over nothing and over old outputs; and at moments."""
    chance = random.Random(f"many {stage}")
    for from_nothing in (True, False):
        faults: list[Fault] = [("call", number, from_nothing) for number in range(1, CALLS + 1)]
        faults += [("instant", chance.uniform(0, 0.15), from_nothing) for _ in range(20)]
        codes = [report["code"] for report in check(made, python, stage, faults)]
        # The last calls are beyond the stage's end, so every call before them was reached.
        assert codes[0] == -9 and codes[CALLS - 1] == 0 and set(codes) == {-9, 0}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.usefixtures("own_file_system")
def test_a_full_disk_is_named_and_harms_nothing(made: Any, python: Python, stage: str) -> None:
    """On a file system of a few megabytes with no room left: 74, the path, the earlier outputs, no leftovers."""
    digests = wanted(made, stage)
    for place in ("checkpoints", "evaluations", "exports", "scratch"):
        shutil.rmtree(made.path(place))
    small = made.root / "small"
    small.mkdir()
    (made.root / "driver.py").write_text(DRIVER)
    task = task_of(stage, [("full_disk", 0, False), ("full_disk", 8192, False)])
    script = (
        'mount -t tmpfs -o size=6m none "$1" && cp -r data texts driver.py "$1" && cd "$1" && exec "$2" driver.py "$3"'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(small), sys.executable, task],
        cwd=made.root, env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for report in reports(done):
        assert report["code"] == 74, report
        assert "the disk is full" in report["said"] and "data/" in report["said"], report
        assert (report["seen"], report["leftovers"]) == (digests, []), report
        assert (report["again"], report["then"]) == ([0, ""], digests), report


def test_a_missing_column_stops_validate(made: Any) -> None:
    """Documents without a licence are a matter of data, named by file and column, though every digest is right."""
    import pyarrow.parquet as pq

    from pipeline.errors import DataError

    folder = made.path("documents/clean")
    facts = manifest.read(folder).facts
    table = pq.read_table(folder / "documents.parquet").drop_columns(["licence"])
    with manifest.commit(folder, "documents", inputs={"ingested": made.path("documents/ingested")}) as draft:
        pq.write_table(table, draft.path / "documents.parquet", write_page_checksum=True)
        draft.facts |= facts
    with pytest.raises(DataError, match=r"clean/documents\.parquet: .*licence") as caught:
        made.run("validate")
    assert caught.value.exit_code == 65


def test_a_record_lost_on_the_way_is_a_bug_that_stops_the_stage(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing loses a record, or tokenizing a part, the stage ends with an error and not with less data."""
    from itertools import islice

    from pipeline import documents
    from pipeline.cleaning import examiner
    from pipeline.stages import ingest, tokenize

    write = documents.write_records

    def losing(records: Any, kind: Any, path: Path, *how: Any) -> int:
        kept = list(records)
        return write(islice(kept, len(kept) - 1), kind, path, *how)

    made.forget()
    before = made.digests()
    for module, stage in ((ingest, "ingest"), (examiner, "clean")):
        monkeypatch.setattr(module, "write_records", losing)
        with pytest.raises(AssertionError, match=rf"{stage}: \d+ [\w ]+ read, but \d+ written and 0 quarantined"):
            made.run(stage)
    monkeypatch.setattr(tokenize, "part_files", lambda table: documents.part_files(table)[1:])
    with pytest.raises(AssertionError, match="tokenize: 40 documents read, but"):
        made.run("tokenize")
    assert made.digests() == before
