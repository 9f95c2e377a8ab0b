"""What is named in data/erasures.txt never passes again, and the file itself tells nobody what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import erasures
from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Document, Instruction
from pipeline.erasures import Erasures, honoured, text_digest
from pipeline.errors import ConfigurationError

CANARY = "The red folder lies under the third stone."


def document(text: str, name: str = "a") -> Document:
    return Document.of(source="texts", name=name, licence="CC0-1.0", text=text)


def test_an_erased_document_is_turned_away_without_a_byte_of_it() -> None:
    """By id or by text, the document becomes a rejection that holds its id and nothing else; others pass untouched."""
    canary, other = document(CANARY, "private-name"), document("Something else.")
    for erased in (Erasures(documents=frozenset({canary.id})), Erasures(texts=frozenset({text_digest(CANARY)}))):
        assert list(honoured([canary, other], erased)) == [
            Rejection("documents", canary.id, 0, "erased", canary.id),
            other,
        ]


@pytest.mark.parametrize("copy", [CANARY.upper(), CANARY.replace(" ", "\r\n  "), f"“{CANARY}”\0", CANARY[:-1]])
def test_a_copy_in_another_dress_is_refused_too(copy: str) -> None:
    """Case, spacing, quotation marks and punctuation do not bring an erased text back."""
    [found] = honoured([document(copy, "b")], Erasures(texts=frozenset({text_digest(CANARY)})))
    assert isinstance(found, Rejection)


def test_quarantined_bytes_of_an_erased_text_are_dropped() -> None:
    """What a source turned away for another reason keeps neither bytes, name nor digest once it was erased."""
    refused = Rejection.of(source="texts", name="private-name.txt", reason="not UTF-8", raw=CANARY.encode() + b"\xff")
    other = Rejection.of(source="texts", name="b.txt", reason="not UTF-8", raw=b"other \xff")
    found = list(honoured([refused, other], Erasures(texts=frozenset({text_digest(CANARY)}))))
    assert found == [Rejection("texts", "erased", 0, "erased", text_digest("")), other]


def test_an_instruction_is_known_by_all_its_parts() -> None:
    """Two instructions that differ in the response alone are two texts."""
    one, two = (
        Instruction.of(dataset="d", split="train", instruction="Say.", input="", response=r) for r in ("yes", "no")
    )
    erased = Erasures(texts=frozenset({text_digest(erasures.learned_text(one))}))
    assert [erased.cover(record) for record in (one, two)] == [True, False]


def test_texts_without_letters_are_told_apart() -> None:
    """A text of signs only is known by its signs, so erasing one does not erase them all."""
    assert text_digest("!!!") != text_digest("???")


@given(st.lists(st.text(max_size=20), max_size=8), st.sets(st.integers(0, 7)))
def test_the_stream_keeps_its_length_and_order(texts: list[str], chosen: set[int]) -> None:
    """Whatever is erased, every record comes out once and in its place: as itself, or turned away."""
    documents = [document(text, str(number)) for number, text in enumerate(texts)]
    erased = Erasures(documents=frozenset(d.id for number, d in enumerate(documents) if number in chosen))
    out = list(honoured(documents, erased))
    assert [d if isinstance(d, Document) else d.name for d in out] == [
        d.id if number in chosen else d for number, d in enumerate(documents)
    ]


def test_the_file_is_sorted_keeps_its_notes_and_holds_digests_only(tmp_path: Path) -> None:
    """Recording in any order, once or twice, gives the same file."""
    file = tmp_path / "erasures.txt"
    file.write_text("# a note\n")
    one, two = Erasures(documents=frozenset({"b" * 64})), Erasures(frozenset({"a" * 64}), frozenset({"c" * 64}))
    for more in (one, two, one):
        everything = erasures.record(more, file)
    assert file.read_text() == f"# a note\ndocument {'a' * 64}\ndocument {'b' * 64}\ntext {'c' * 64}\n"
    assert erasures.load(file) == everything == one | two
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", [None, "document abc\n", f"name {'a' * 64}\n", "what is this\n"])
def test_a_file_that_is_gone_or_altered_stops_ingest(tmp_path: Path, content: str | None) -> None:
    """Rather than bring erased documents back, ingest is told what to restore."""
    if content is not None:
        (tmp_path / "erasures.txt").write_text(content)
    with pytest.raises(ConfigurationError, match=r"erasures\.txt"):
        erasures.load(tmp_path / "erasures.txt")
