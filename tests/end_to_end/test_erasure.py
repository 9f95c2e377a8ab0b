"""Erase, run, purge: afterwards the canary is in no file of the project but the one its owner wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import encodings
from tests.end_to_end.clone import Clone

# In every run the same without DVC: tests/pipeline/test_erase.py.
pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("faults")]
CANARY = "Ottilie Brandwater hides seven loose bricks near the mill pond"


def holding(root: Path, ids: bytes) -> list[str]:
    """Files below that hold the canary as text, as Parquet text, or as token ids."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if content[:4] == b"PAR1":
            content += repr(pq.read_table(path).to_pydict()).encode()
        if CANARY.encode() in content or ids in content:
            found.append(path.relative_to(root).as_posix())
    return found


def test_an_erased_document_is_gone_from_data_cache_and_scratch(clone: Clone) -> None:
    """DVC runs the data stages anew after `homegrown erase`, and `--purge` takes the old outputs out of the cache."""
    dvc_repro = (sys.executable, "-m", "dvc", "repro", "tokenize")
    (clone.root / "mine").mkdir()
    (clone.root / "mine" / "canary.txt").write_text(CANARY, encoding="utf-8")
    (clone.root / "mine" / "other.txt").write_text("Another text about a garden.", encoding="utf-8")
    clone.set(ingest__texts="mine")
    clone.run(*dvc_repro)
    ranks = encodings.load_encoding(clone.root / "data" / "tokens" / encodings.RANKS_FILE)
    import numpy as np

    ids = np.array(ranks.encode_ordinary(CANARY), np.uint16).tobytes()
    assert len(holding(clone.root / "data", ids)) >= 3
    assert holding(clone.root / ".dvc" / "cache", ids)

    traced = clone.homegrown("trace", "--text", "seven loose bricks")
    assert "texts canary.txt" in traced.stdout
    clone.homegrown("erase", "--text", "seven loose bricks", "--yes")
    early = clone.homegrown("erase", "--purge", "--yes", check=False)
    assert (early.returncode, "still in data/" in early.stderr) == (65, True)
    clone.run(*dvc_repro)
    assert holding(clone.root / "data", ids) == []
    clone.homegrown("erase", "--purge", "--yes")
    assert holding(clone.root / ".dvc", ids) == []
    assert holding(clone.root / ".homegrown", ids) == []
    gone = clone.homegrown("trace", "--text", "seven loose bricks", check=False)
    assert (gone.returncode, "Traceback" in gone.stderr) == (65, False)
    # What is there now is whole and restorable: nothing has to run again.
    assert "didn't change" in clone.run(*dvc_repro).stdout
