"""What a user can get wrong, and what the machine can: one clear line, the exit code, and nothing lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clone import Clone, clone_project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]
CANARY = "PRIVATE-CANARY-4711"


@pytest.fixture(scope="module")
def one_clone(tmp_path_factory: pytest.TempPathFactory, lend_prefect_tables: Callable[[Path], None]) -> Iterator[Clone]:
    """A clone and its servers for all tests here: a refused run leaves nothing that the next would meet."""
    clone = clone_project(tmp_path_factory.mktemp("faults"))
    lend_prefect_tables(clone.root)
    yield clone
    clone.stop_servers()


@pytest.fixture
def clone(one_clone: Clone) -> Iterator[Clone]:
    """That clone, with its params as they were."""
    params = one_clone.root / "params.yaml"
    before = params.read_bytes()
    yield one_clone
    params.write_bytes(before)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error; anything more is a failure."""
    lines = done.stderr.strip().splitlines()
    said = [line for line in lines if line.startswith("homegrown: ")]
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return said[0]


def test_bad_input_is_refused_in_one_line(clone: Clone) -> None:
    """A typo, a missing folder, an empty corpus: each with its exit code, its place, and what to do."""
    typo = clone.homegrown("run", "--set", "pretrain.stepz=50", check=False)
    assert (typo.returncode, "did you mean 'steps'" in complaint(typo)) == (64, True)

    preset = clone.homegrown("run", "--preset", "gpt2-124", check=False)
    assert (preset.returncode, "did you mean 'gpt2-124m'" in complaint(preset)) == (64, True)

    text = (clone.root / "params.yaml").read_text()
    (clone.root / "params.yaml").write_text(text.replace("  batch_size: 2\n", "  batch_sise: 2\n", 1))
    edited = clone.homegrown("run", check=False)
    assert (edited.returncode, "batch_sise" in complaint(edited)) == (64, True)
    assert not (clone.root / "data" / "documents").exists()  # said before the first stage, not by the fifth
    (clone.root / "params.yaml").write_text(text)

    missing = clone.homegrown("run", "ingest", "--set", "ingest.texts=data/no-such-folder", check=False)
    assert missing.returncode == 64
    assert "data/no-such-folder is not there; put it back, or set ingest.texts" in complaint(missing)

    (clone.root / "empty").mkdir()
    (clone.root / "empty" / "nothing.txt").write_text("")
    nothing = clone.homegrown(
        "run", "clean", "--set", "ingest.texts=empty", "--set", "ingest.sources=[texts]", check=False
    )
    assert (nothing.returncode, "none of the 1 documents is left" in complaint(nothing)) == (65, True)


def test_bad_files_are_quarantined_and_good_ones_kept(clone: Clone) -> None:
    """Bad UTF-8 is put aside with its reason, the other files go on, and no private text reaches a log."""
    texts = clone.root / "mine"
    texts.mkdir()
    (texts / "good.txt").write_text("A good text about a garden.\n", encoding="utf-8")
    (texts / "bad.txt").write_bytes(f"{CANARY} caf\xe9 ".encode("latin-1"))
    clone.homegrown("run", "clean", "--set", "ingest.texts=mine")
    assert clone.json("data/documents/ingested/manifest.json")["facts"]["by_source"]["texts"] == 1
    assert clone.json("data/quarantine/ingest/manifest.json")["facts"]["rejections"] == 1
    logs = [p for p in (clone.root / ".homegrown").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert not [p for p in logs if CANARY.encode() in p.read_bytes()]


def test_a_failing_expectation_stops_before_training(clone: Clone) -> None:
    """Data that breaks an expectation exits 65 with what is wrong; nothing is trained, Data Docs tell more."""
    failed = clone.homegrown("run", "--set", "validate.minimum_documents=100000", check=False)
    assert (failed.returncode, "fewer documents than validate.minimum_documents" in complaint(failed)) == (65, True)
    assert (clone.root / "data/reports/data_docs/index.html").is_file()
    assert not (clone.root / "data/tokens").exists()
