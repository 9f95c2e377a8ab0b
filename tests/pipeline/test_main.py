"""`python -m pipeline STAGE` as DVC calls it: what it leaves, how it ends, and what it never says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.__main__ import resolve
from pipeline.dependencies import spelled
from pipeline.params import load
from pipeline.set_params import set_values

REPOSITORY = Path(__file__).resolve().parents[2]
CANARY = "SECRET-CANARY-90210"
# A parent is named, so that no delivery is started: these tests look at the stages alone.
ALONE = {"HOMEGROWN_PARENT_RUN": "nobody"}

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(made: Any) -> Path:
    """A project with params that fit its small artefacts; its stages can be run by their command."""
    shutil.copy(REPOSITORY / "params.yaml", made.root)
    set_values(
        made.root / "params.yaml",
        {
            "ingest.sources": "[texts]",
            "ingest.texts": "texts",
            "tokenize.vocab_size": "300",
            "tokenize.validation_fraction": "0.2",
            "pretrain.context_length": "64",
            "pretrain.n_layers": "1",
            "pretrain.d_model": "32",
            "pretrain.n_heads": "2",
            "pretrain.precision": "float32",
            "compute.threads": "1",
        },
    )
    root: Path = made.root
    return root


def test_a_finetune_reads_the_model_that_it_starts_from(tmp_path: Path) -> None:
    """`${start}` in a path is what the entry says; dvc.yaml spells it by the entry, so DVC orders the chain."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    set_values(tmp_path / "params.yaml", {"finetunes.spam.start": "assistant"})
    file = load(tmp_path / "params.yaml")
    assert [resolve("data/checkpoints/${start}", file, name) for name in ("assistant", "spam")] == [
        "data/checkpoints/base",
        "data/checkpoints/assistant",
    ]
    assert spelled("data/checkpoints/${start}/${name}", "${key}") == "data/checkpoints/${item.start}/${key}"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def typo(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("drop_duplicates", "drop_duplicate"))


def no_texts(project: Path) -> None:
    shutil.rmtree(project / "texts")
    (project / "texts").mkdir()
    (project / "texts" / "bad.txt").write_bytes(CANARY.encode() + b"\xff")


def altered(project: Path) -> None:
    flip(project / "data" / "documents" / "ingested" / "documents.parquet" / "000000.parquet")


def no_figure(project: Path) -> None:
    import contextlib

    from pipeline import manifest

    folder = project / "data" / "evaluations" / "base"
    metrics = json.loads((folder / "metrics.json").read_text()) | {"bits_per_byte": float("nan")}
    with contextlib.chdir(project), manifest.commit(folder, "evaluation") as draft:
        (draft.path / "metrics.json").write_text(json.dumps(metrics))
        (draft.path / "samples.json").write_text("[]")


def state_is_a_file(project: Path) -> None:
    shutil.rmtree(project / ".homegrown", ignore_errors=True)
    (project / ".homegrown").write_text("in the way")


def a_bug(project: Path) -> None:
    """Facts that no version of ours ever wrote, under a right digest: what else but a bug could make them?"""
    path = project / "data" / "documents" / "clean" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": {}}))


def all_exported(project: Path) -> None:
    """The small project has no sentiment; register asks for every export of the params before it asks for MLflow."""
    shutil.copytree(project / "data" / "exports" / "spam", project / "data" / "exports" / "sentiment")


def nothing(project: Path) -> None:
    """The scene is right as it is."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "scene", "code", "said"),
    [
        ("clean", nothing, 0, ""),
        (
            "clean",
            typo,
            64,
            "homegrown: params.yaml: clean: unknown key 'drop_duplicate'; did you mean 'drop_duplicates'?",
        ),
        ("ingest", no_texts, 65, "homegrown: ingest: no document could be read (1 × is not UTF-8: byte 19"),
        ("register", all_exported, 69, "homegrown: MLflow at http://127.0.0.1:1 does not answer ("),
        (
            "tokenize",
            a_bug,
            70,
            "homegrown: tokenize: KeyError, a fault of the program; the traceback is in .homegrown/",
        ),
        ("clean", state_is_a_file, 74, "homegrown: clean: .homegrown/"),
        ("export base", no_figure, 76, "homegrown: export: base: bits_per_byte is nan; a model without a figure"),
        (
            "clean",
            altered,
            77,
            "homegrown: data/documents/ingested/documents.parquet/000000.parquet: its bytes",
        ),
        ("finetune spma", nothing, 64, "homegrown: params.yaml: there is no finetunes.spma; did you mean 'spam'?"),
        ("evaluate spma", nothing, 64, "homegrown: params.yaml: there is no model 'spma'; did you mean 'spam'?"),
        ("evaluate ../../x", nothing, 64, "homegrown: params.yaml: there is no model '../../x'"),
        ("export", nothing, 64, "homegrown: export: which model? "),
        ("clean spam", nothing, 64, "homegrown: clean: takes no name"),
        ("cleen", nothing, 64, "usage: python -m pipeline {ingest,clean,"),
        ("", nothing, 64, "usage: python -m pipeline {ingest,clean,"),
    ],
)
def test_every_way_to_end_has_its_code_and_one_line(
    project: Path, python: Python, stage: str, scene: Callable[[Path], None], code: int, said: str
) -> None:
    """The exit code says what kind of thing went wrong, one line says what; no traceback, no text of the data."""
    scene(project)
    ended = python("-m", "pipeline", *stage.split(), cwd=project, MLFLOW_TRACKING_URI="http://127.0.0.1:1", **ALONE)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1 if code else 0), ended.stderr
    assert ended.stderr.startswith(said)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert CANARY not in ended.stdout + ended.stderr
    state = project / ".homegrown"
    for path in state.rglob("*") if state.is_dir() else []:
        assert path.is_dir() or CANARY not in path.read_text()


@pytest.mark.slow
def test_the_record_says_what_was_told_and_how_it_ended(project: Path, python: Python) -> None:
    """Params, parent, the artefacts' digests and the end stand in the spool; a failed stage is FAILED."""
    from pipeline import manifest

    python("-m", "pipeline", "clean", cwd=project, **ALONE)
    altered(project)
    python("-m", "pipeline", "clean", cwd=project, **ALONE)
    records = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((project / ".homegrown" / "spool").glob("*.jsonl"))
    ]
    params = {key: str(value) for key, value in asdict(load(project / "params.yaml").stage("clean")).items()}
    assert [(r[0]["name"], r[0]["parent"], r[0]["params"], r[-1]["status"]) for r in records] == [
        ("clean", "nobody", params, "FINISHED"),
        ("clean", "nobody", params, "FAILED"),
    ]
    artefacts = {k: v for event in records[0] if event["event"] == "tags" for k, v in event["values"].items()}
    assert artefacts == {
        f"homegrown.artefact.{key}": manifest.read(project / "data" / place).digest
        for key, place in (
            ("documents", "documents/clean"),
            ("examples", "examples/clean"),
            ("quarantine", "quarantine/clean"),
        )
    }


@pytest.mark.slow
def test_a_full_disk_ends_with_74_and_the_earlier_artefact(project: Path, python: Python) -> None:
    """With no room for a file, the stage names the place and the way out, and what was there is there."""
    before = (project / "data" / "tokens" / "manifest.json").read_bytes()
    code = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from pipeline.__main__ import main
sys.exit(main(["tokenize"]))
"""
    ended = python("-c", code, cwd=project, **ALONE)
    assert ended.returncode == 74
    assert ended.stderr.startswith(
        "homegrown: writing data/tokens: data/tokens: the file would exceed the allowed size"
    )
    assert (project / "data" / "tokens" / "manifest.json").read_bytes() == before
    assert not list((project / "data").glob(".partial*"))


@pytest.mark.slow
def test_a_stage_that_is_running_is_not_run_beside_itself(project: Path, python: Python) -> None:
    """While another process holds the stage's lock, the second one ends with 75 and touches nothing."""
    lock = project / ".homegrown" / "locks" / "clean.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    impatient = "import sys; from pipeline import __main__ as m; m.LOCK_WAIT_SECONDS = 1; sys.exit(m.main(['clean']))"
    with FileLock(lock):
        ended = python("-c", impatient, cwd=project, **ALONE)
    assert (ended.returncode, ended.stderr) == (
        75,
        "homegrown: clean: another process is running this stage; wait for it or stop it\n",
    )


@pytest.mark.slow
def test_a_stopped_training_says_how_to_go_on(project: Path, python: Python) -> None:
    """SIGTERM saves and ends with 75, the record says KILLED, and no run of it loads MLflow."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOMEGROWN_PROGRESS": "json", **ALONE}
    command = [sys.executable, "-m", "pipeline", "pretrain"]
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            if line.startswith("@progress"):
                process.send_signal(signal.SIGTERM)
                break
        said = process.stdout.read()
        complaint = process.stderr.read()
    assert process.returncode == 75, complaint
    ended = json.loads(said.splitlines()[-1].removeprefix("@exit "))
    assert ended["code"] == 75
    assert "with everything saved; run the same command again to go on from there" in ended["message"]
    assert complaint == f"homegrown: {ended['message']}\n"
    [record] = (project / ".homegrown" / "spool").glob("*.jsonl")
    assert json.loads(record.read_text().splitlines()[-1])["status"] == "KILLED"


@pytest.mark.slow
def test_a_stage_dies_with_the_process_that_started_it(project: Path, tmp_path: Path) -> None:
    """A killed `dvc repro` does not leave its stage writing: the stage is told to stop, and saves."""
    set_values(project / "params.yaml", {"pretrain.steps": "100000"})
    starter = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-m', 'pipeline', 'pretrain'])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOMEGROWN_PROGRESS": "json", **ALONE}
    with subprocess.Popen(
        [sys.executable, "-c", starter], cwd=project, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("@progress"):
                process.kill()
                break
        rest = process.stdout.read()  # ends when the stage, which holds the other end, is gone
    assert json.loads(rest.splitlines()[-1].removeprefix("@exit "))["code"] == 75


@pytest.mark.slow
def test_no_stage_s_process_loads_mlflow(project: Path, python: Python) -> None:
    """A whole stage runs, its record written, without MLflow or, where it does not compute, torch."""
    code = """\
import sys
from pipeline.__main__ import main
main(["clean"])
print([name for name in ("mlflow", "sqlalchemy", "torch", "great_expectations", "dvc") if name in sys.modules])
"""
    assert python("-c", code, cwd=project, **ALONE).stdout.splitlines()[-1] == "[]"
