"""Files that are kept spare work and change nothing: an artefact has the bytes that it would have without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import manifest
from pipeline.kept_files import open_kept_files

KEY = {"rule": "any"}


@pytest.fixture(autouse=True)
def in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(contents: dict[str, str], key: object = KEY, fails: bool = False) -> list[str]:
    """Make an artefact of these contents by file name, by way of what is kept; the files that had to be written."""
    written: list[str] = []

    def write(path: Path) -> None:
        written.append(path.name)
        path.write_text(contents[path.name])

    with open_kept_files("test", key) as kept, manifest.commit(Path("artefact"), "test") as draft:
        for name, content in contents.items():
            kept.fill(draft, draft.path / name, content.encode(), write)
        if fails:
            raise ZeroDivisionError
    assert {name: Path("artefact", name).read_text() for name in manifest.verify(Path("artefact")).files} == contents
    return written


def kept_files() -> list[Path]:
    return sorted(path for path in Path("data/scratch/memo/test").rglob("*") if path.is_file())


def test_what_was_written_once_is_taken_again_under_any_name() -> None:
    """A file is known by what decides it, and takes no more room than it did."""
    assert made({"a": "one", "b": "two"}) == ["a", "b"]
    assert made({"a": "two", "c": "three", "d": "one", "e": "one"}) == ["c"]
    assert {path.stat().st_nlink for path in kept_files()} == {2, 3}


def test_what_a_run_did_not_ask_for_is_dropped() -> None:
    """So the files kept are those of the last artefact; another key keeps none of them."""
    made({"a": "one", "b": "two"})
    made({"a": "two"})
    assert [path.read_text() for path in kept_files()] == ["two"]
    assert made({"a": "two"}, {"rule": "another"}) == ["a"]
    assert len(kept_files()) == 1


def test_an_altered_file_is_not_believed() -> None:
    """Whether the kept file was altered, or the artefact's, which is the same: it is written anew, and kept anew."""
    made({"a": "one", "b": "two"})
    Path("artefact", "a").write_text("won")
    assert made({"a": "one", "b": "two"}) == ["a"]
    assert made({"a": "one", "b": "two"}) == []


def test_a_run_that_fails_loses_nothing() -> None:
    """The artefact stays, what was kept stays, and what it wrote need not be written again."""
    made({"a": "one"})
    with pytest.raises(ZeroDivisionError):
        made({"b": "two"}, fails=True)
    assert Path("artefact", "a").read_text() == "one"
    assert made({"a": "one", "b": "two"}) == []


def test_a_disk_without_links_gets_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a file kept takes room, and is taken all the same."""

    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    assert made({"a": "one"}) == ["a"]
    assert made({"b": "one"}) == []
    assert [path.stat().st_nlink for path in kept_files()] == [1]
