"""A file that looks as it did is not opened again, and what it gave is what it would give."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.documents import Document, read_records
from pipeline.erasures import text_digest
from pipeline.errors import IntegrityError
from pipeline.sources import html, known_files, reading
from pipeline.sources.locations import OpenFile

INGESTED = ("documents/ingested", "examples/ingested", "quarantine/ingest")
COUNT = 40  # files of the small project


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written a moment ago may be believed: nothing here writes and looks within one tick of a clock."""
    monkeypatch.setattr(known_files, "SETTLED_NS", 0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every file that was opened to be read."""
    names: list[str] = []

    def noting(path: str) -> Any:
        names.append(Path(path).name)
        return OpenFile(path)

    monkeypatch.setattr(reading, "OpenFile", noting)
    return names


def ingested(project: Any, read: list[str]) -> list[str]:
    """What a run opens; its artefacts are those of a run that remembers nothing."""
    read.clear()
    project.run("ingest")
    names, made = sorted(read), [project.manifest(name) for name in INGESTED]
    memo, kept = project.path("scratch/memo"), project.root / "kept"
    shutil.move(memo, kept)
    project.run("ingest")
    assert [project.manifest(name) for name in INGESTED] == made
    shutil.rmtree(memo)
    shutil.move(kept, memo)
    return names


def texts(project: Any) -> list[str]:
    """The texts of all documents."""
    return [document.text for document in read_records(project.path("documents/ingested/documents.parquet"), Document)]


def test_only_a_new_file_is_opened(fresh: Any, read: list[str]) -> None:
    """What is in no part that changed is neither opened nor hashed, and the facts of its source are the same."""
    assert len(ingested(fresh, read)) == COUNT
    assert ingested(fresh, read) == []
    (fresh.root / "texts" / "zebra.txt").write_text("A zebra.")
    facts = fresh.manifest("documents/ingested").facts["sources"]["texts"]
    assert "zebra.txt" in ingested(fresh, read)
    assert fresh.manifest("documents/ingested").facts["sources"]["texts"]["files"] == facts["files"] + 1


def test_files_far_from_the_change_stay_closed(fresh: Any, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the parts of a table only those near a new file are made anew, and only their files read."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 600)
    ingested(fresh, read)
    (fresh.root / "texts" / "cow-zoo.txt").write_text("A cow in a zoo.")
    names = ingested(fresh, read)
    assert "cow-zoo.txt" in names and len(names) < COUNT / 2
    (fresh.root / "texts" / "ant-barn.txt").unlink()
    names = ingested(fresh, read)
    assert 0 < len(names) < COUNT / 2 and "owl-barn.txt" not in names


@pytest.mark.parametrize("workers", [1, 2])
def test_files_read_ahead_are_known_the_next_time(fresh: Any, read: list[str], workers: int) -> None:
    """Files that are tried before their turn, between others, are remembered in the order of all."""
    import docx

    fresh.compute = replace(fresh.compute, workers=workers)
    for name in ("ape", "bat", "cod", "eel"):
        document = docx.Document()
        document.add_paragraph(f"A {name} reads a letter.")
        document.save(str(fresh.root / "texts" / f"{name}.docx"))
    assert len(ingested(fresh, read)) == COUNT + 4
    (fresh.root / "texts" / "bat.docx").touch()
    assert "bat.docx" in ingested(fresh, read)
    assert ingested(fresh, read) == []


def test_a_change_of_nothing_but_the_words_is_seen(fresh: Any, read: list[str]) -> None:
    """A file of the same size whose date was set back has another time of change."""
    place = fresh.root / "texts" / "cat-barn.txt"
    ingested(fresh, read)
    before = place.stat()
    words = place.read_text()
    place.write_text(words.replace("cat", "rat"))
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place.stat().st_size, place.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert "cat-barn.txt" in ingested(fresh, read)
    assert words.replace("cat", "rat") in texts(fresh)


def test_a_file_that_changed_just_now_is_read_again(
    fresh: Any, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the disk's clock it might change again and look the same."""
    monkeypatch.setattr(known_files, "SETTLED_NS", 3600 * 10**9)
    assert len(ingested(fresh, read)) == COUNT
    assert len(ingested(fresh, read)) == COUNT


def test_a_file_that_lies_stops_the_run_once(fresh: Any, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file that looks the same gives another text, nothing is written, and all is read next time."""
    ingested(fresh, read)
    (fresh.root / "texts" / "cat-barn.txt").write_text("It is another now.")
    with monkeypatch.context() as patched:
        patched.setattr(known_files.Looks, "of", lambda found: known_files.Looks(found.st_ino, 1, 1, 1))
        shutil.rmtree(fresh.path("scratch/memo"))
        fresh.run("ingest")
        before = fresh.manifest("documents/ingested")
        (fresh.root / "texts" / "cat-barn.txt").write_text("And now again.")
        for kept in fresh.path("scratch/memo").glob("ingested_files/*"):
            shutil.rmtree(kept)
        with pytest.raises(IntegrityError, match=r"cat-barn\.txt: the file changed"):
            fresh.run("ingest")
        assert fresh.manifest("documents/ingested") == before
        fresh.run("ingest")
    assert "And now again." in texts(fresh)


def test_what_was_erased_does_not_come_back(fresh: Any, read: list[str]) -> None:
    """A text that was erased is looked for in files that look the same, and remembered of none."""
    said = (fresh.root / "texts" / "cat-barn.txt").read_text()
    (fresh.root / "texts" / "copy.txt").write_text(said.upper())
    ingested(fresh, read)
    fresh.path("erasures.txt").write_text(f"text {text_digest(said)}\n")
    for n_opened in (COUNT + 1, 2):
        assert len(ingested(fresh, read)) == n_opened
        assert not [text for text in texts(fresh) if text.casefold() == said.casefold()]


def test_an_erased_id_alone_is_enough(fresh: Any, read: list[str]) -> None:
    """A line `document` in data/erasures.txt without its text keeps the one document out."""
    ingested(fresh, read)
    [owl] = [
        d
        for d in read_records(fresh.path("documents/ingested/documents.parquet"), Document)
        if d.name == "owl-barn.txt"
    ]
    fresh.path("erasures.txt").write_text(f"document {owl.id}\n")
    assert "owl-barn.txt" in ingested(fresh, read)
    assert owl.text not in texts(fresh)


def test_a_page_that_nobody_opened_need_not_be_parsed_later(
    fresh: Any, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text stays in memory through runs that did not ask for it, until the file is touched and read again."""
    parsed: list[str] = []
    extracted = html.extracted

    def extracting(*what: Any) -> str:
        parsed.append("html")
        return extracted(*what)

    monkeypatch.setattr(html, "extracted", extracting)
    page = fresh.root / "texts" / "page.html"
    page.write_text("<html><body><main><p>The bee reads a page.</p></main></body></html>")
    for _ in range(3):
        fresh.run("ingest")
    assert parsed == ["html"]
    page.touch()
    read.clear()
    fresh.run("ingest")
    assert read.count("page.html") == 1
    assert parsed == ["html"]


def test_other_parameters_read_all_again(fresh: Any, read: list[str]) -> None:
    """A licence or an encoding that is stated anew is part of every document."""
    ingested(fresh, read)
    read.clear()
    fresh.run("ingest", texts_licence="CC0")
    assert len(read) == COUNT


def test_a_source_with_a_digest_is_read_in_full(fresh: Any, read: list[str]) -> None:
    """Whoever states a sha256 wants the bytes to be held to it, every time."""
    fresh.run("ingest")
    digest = fresh.manifest("documents/ingested").facts["sources"]["texts"]["sha256"]
    own = {"path": str(fresh.root / "texts"), "kind": "documents", "licence": "CC0", "origin": "here", "sha256": digest}
    for _ in range(2):
        read.clear()
        fresh.run("ingest", sources=["own"], catalogue={"own": own})
        assert len(read) == COUNT
