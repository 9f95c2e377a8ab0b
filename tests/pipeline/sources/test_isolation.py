"""Files that are slow or dangerous to read are tried by several children at once, and what comes out is the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docx
import pytest

from pipeline.sources import isolation as isolation_module
from pipeline.sources.isolation import Isolation
from pipeline.sources.locations import Found, OpenFile
from pipeline.sources.rows import Options, RefusedError, Row

OPTIONS = Options()


@pytest.fixture
def letters(tmp_path: Path) -> list[Found]:
    """Twenty letters, of which the eighth is none."""
    for number in range(20):
        letter = docx.Document()
        letter.add_paragraph(f"Letter {number}.")
        letter.save(str(tmp_path / f"{number:02}.docx"))
    (tmp_path / "07.docx").write_bytes(b"no letter")
    return [Found(path.name, str(path)) for path in sorted(tmp_path.iterdir())]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inode of each file that a child was given."""
    seen: list[int] = []
    trying = isolation_module._Child._tried

    def noting(self: Any, file: Any, *rest: Any) -> Any:
        seen.append(os.fstat(file.fileno()).st_ino)
        return trying(self, file, *rest)

    monkeypatch.setattr(isolation_module._Child, "_tried", noting)
    return seen


def said(isolation: Isolation, files: Iterable[Found]) -> Iterator[str]:
    """The text of each file, or why it was refused."""
    for found in isolation.ahead(files, lambda _: "docx", OPTIONS):
        with OpenFile(found.path) as (file, looks):
            try:
                [row] = isolation.rows(file, looks.st_size, "docx", OPTIONS)
                assert isinstance(row, Row)
                yield str(row.values["text"])
            except RefusedError as refusal:
                yield refusal.reason


@pytest.mark.parametrize("children", [1, 2, 5])
def test_each_file_is_tried_once_and_in_its_place(letters: list[Found], tried: list[int], children: int) -> None:
    """Texts and refusals come in the files' order, and no child reads what another has read."""
    with Isolation(children=children) as isolation:
        found = list(said(isolation, letters))
    assert found[:7] + found[8:] == [f"Letter {number}." for number in range(20) if number != 7]
    assert found[7].startswith("is damaged, or no .docx")
    assert sorted(tried) == sorted(Path(letter.path).stat().st_ino for letter in letters)


def test_a_file_that_is_another_one_by_its_turn_is_tried_again(letters: list[Found], tried: list[int]) -> None:
    """What was found out about the one that was there before is not believed."""
    with Isolation(children=2) as isolation:
        texts = said(isolation, letters)
        assert next(texts) == "Letter 0."
        Path(letters[19].path).replace(letters[1].path)
        assert next(texts) == "Letter 19."
        assert next(texts) == "Letter 2."


def test_a_file_that_will_be_gone_is_read_in_its_turn(letters: list[Found], tried: list[int]) -> None:
    """Copies of what lies in a store are there one at a time: none is asked for before the one before it was read."""

    def fleeting() -> Iterator[Found]:
        for number, found in enumerate(letters):
            yield replace(found, fleeting=number % 4 == 3)
            if number % 4 == 3:
                Path(found.path).unlink()

    with Isolation(children=2) as isolation:
        found = list(said(isolation, fleeting()))
    assert [text for text in found if text.startswith("Letter")] == [f"Letter {n}." for n in range(20) if n != 7]
    assert len(tried) == len(set(tried)) == 20


def test_who_leaves_early_leaves_no_child_behind(letters: list[Found]) -> None:
    """Children end with the context, in the middle of their work too."""
    with Isolation(children=3) as isolation:
        assert next(said(isolation, letters)) == "Letter 0."
        processes = [child._process for child in isolation._children]
    assert len(processes) >= 1 and all(process is None or process.poll() is not None for process in processes)
