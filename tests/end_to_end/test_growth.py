"""A corpus that grows under DVC: what is remembered, what DVC keeps and what lies in data/ get on with one another."""

from __future__ import annotations

import hashlib
import sys

import pytest

from pipeline import manifest
from tests.end_to_end.clone import Clone

# In every run the same without DVC: tests/pipeline/stages/test_incremental.py.
pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("faults")]
ARTEFACTS = ("documents/ingested", "documents/clean", "examples/clean", "quarantine/clean", "tokens")


@pytest.mark.parametrize("link", ["copy", "hardlink"])
def test_a_grown_corpus_is_made_alike_whatever_was_remembered(clone: Clone, link: str) -> None:
    """After each run all artefacts are whole and DVC's cache is what its names say; where DVC makes links, a new shard
    lies on the disk once, under its three names."""
    dvc = (sys.executable, "-m", "dvc")
    clone.run(*dvc, "config", "--local", "cache.type", link)
    texts = clone.root / "mine"
    texts.mkdir()
    for number in range(30):
        (texts / f"{number}.txt").write_text(f"The garden of house {number} has {number + 2} beds of cabbage.")
    clone.set(ingest__texts="mine")

    def digests() -> list[str]:
        clone.run(*dvc, "repro", "tokenize")
        for file in (clone.root / ".dvc" / "cache" / "files" / "md5").glob("*/*"):
            assert hashlib.md5(file.read_bytes()).hexdigest() == (file.parent.name + file.name).removesuffix(".dir")
        artefacts = [clone.root / "data" / name for name in ARTEFACTS]
        return [manifest.verify(folder).digest for folder in artefacts]

    before = digests()
    [shard] = (clone.root / "data" / "tokens").glob("train-?????.parquet")
    assert shard.stat().st_nlink == (3 if link == "hardlink" else 1)
    (texts / "new.txt").write_text("Another garden, all of it beans.")
    remembering = digests()
    assert before != remembering
    clone.homegrown("erase", "--purge", "--yes")
    assert not (clone.root / "data" / "scratch").exists()
    clone.run(*dvc, "repro", "--force", "tokenize")
    assert digests() == remembering
