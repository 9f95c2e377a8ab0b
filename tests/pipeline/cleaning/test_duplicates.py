"""What looking for duplicates promises: the first of equal texts is kept, and the others say which it was."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.duplicates import Duplicates
from pipeline.documents import Document


def document(number: int, text: str) -> Document:
    return Document.of(source="tests", name=str(number), licence="CC0-1.0", text=text)


def digest(document: Document) -> bytes:
    return hashlib.sha256(document.text.encode()).digest()


def test_the_first_is_kept_and_the_others_name_it() -> None:
    """Equal texts are duplicates whatever their names; texts that differ in one character are not."""
    met = Duplicates()
    documents = [document(i, text) for i, text in enumerate(["sun", "rain", "sun", "Sun", "sun"])]
    answer = f"exact duplicate of {documents[0].id}"
    assert [met.reason_to_drop(digest(d), d.id) for d in documents] == [None, None, answer, None, answer]


def test_a_document_that_comes_twice_is_a_duplicate_of_itself() -> None:
    """The same record, id and all, is kept once."""
    met, sun = Duplicates(), document(1, "sun")
    assert [met.reason_to_drop(digest(sun), sun.id) for _ in range(2)] == [None, f"exact duplicate of {sun.id}"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=2)))
def test_each_text_is_kept_exactly_once_and_in_order(texts: list[str]) -> None:
    """What is kept is the list of different texts, in the order of their first appearance."""
    met = Duplicates()
    documents = [document(i, text) for i, text in enumerate(texts)]
    assert [d.text for d in documents if met.reason_to_drop(digest(d), d.id) is None] == list(dict.fromkeys(texts))
