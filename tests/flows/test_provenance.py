"""`homegrown trace` and `homegrown erase` answer in plain lines, ask before they write, refuse what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import provenance
from pipeline import erasures
from pipeline.documents import Document, write_records
from pipeline.errors import ConfigurationError, DataError

TEXT = "A mole digs in the garden."


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Document:
    """A project's folder in which ingest has written one document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "data" / "documents" / "ingested"
    folder.mkdir(parents=True)
    erasures.FILE.write_text("")
    document = Document.of(source="texts", name="mole.txt", licence="CC0-1.0", text=TEXT)
    write_records([document], Document, folder / "documents.parquet")
    return document


def test_trace_tells_the_way_in_lines_or_in_json(corpus: Document, capsys: pytest.CaptureFixture[str]) -> None:
    """By id a person reads lines, by text a program reads one object; both say the same."""
    provenance.show(corpus.id[:8], None, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        f"documents {corpus.id}",
        "  found by  id",
        "  source    texts mole.txt",
        "  licence   CC0-1.0",
        "  verdict   waiting for clean",
        "  split     none",
        "  model     none saw it",
    ]
    provenance.show(None, "digs in", as_json=True)
    [record] = json.loads(capsys.readouterr().out)["records"]
    assert (record["id"], record["match"], record["models"]) == (corpus.id, "contains", [])


@pytest.mark.parametrize(("doc", "text"), [(None, None), ("abcdef", "text")])
def test_trace_wants_an_id_or_a_text(corpus: Document, doc: str | None, text: str | None) -> None:
    """Neither or both is a mistake of the command line."""
    with pytest.raises(ConfigurationError, match="--doc ID or --text TEXT"):
        provenance.show(doc, text, as_json=False)


@pytest.mark.parametrize(("doc", "text"), [("abcdef", None), ("e" * 64, None), (None, "nobody wrote this")])
def test_what_stands_nowhere_is_said_to(corpus: Document, doc: str | None, text: str | None) -> None:
    """One line and 65; the text is not repeated."""
    with pytest.raises(DataError, match="there is no record") as caught:
        provenance.show(doc, text, as_json=False)
    assert "nobody" not in str(caught.value)


def test_erase_asks_and_writes_only_after_yes(
    corpus: Document, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal it wants --yes; at a terminal, "n" leaves the file alone; with --yes it says what remains."""
    with pytest.raises(ConfigurationError, match="give --yes"):
        provenance.erase([corpus.id], None, yes=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    with pytest.raises(KeyboardInterrupt):
        provenance.erase([corpus.id], None, yes=False)
    assert erasures.load() == erasures.Erasures()
    capsys.readouterr()
    for _ in range(2):
        provenance.erase([corpus.id], None, yes=True)
        said = capsys.readouterr().out
    assert "to erase: 1 documents" in said
    assert "homegrown erase --purge" in said
    assert erasures.load() == erasures.Erasures(frozenset({corpus.id}), frozenset({erasures.text_digest(TEXT)}))
    with pytest.raises(ConfigurationError, match="--doc ID, --text TEXT or --purge"):
        provenance.erase([], None, yes=True)


def test_purge_is_refused_while_the_record_is_there(corpus: Document, tmp_path: Path) -> None:
    """The order is erase, run, purge."""
    provenance.erase([corpus.id], None, yes=True)
    with pytest.raises(DataError, match="1 erased records are still in data/"):
        provenance.purge(tmp_path, yes=True)
