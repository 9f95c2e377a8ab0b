"""What is checked of documents is found in one pass, and remembered for the parts that have not changed."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import document_measures, manifest
from pipeline.cleaning.quality import RULES
from pipeline.cleaning.words import Batch
from pipeline.document_measures import PICTURED, Measures
from pipeline.documents import Document, write_table

TEXTS = [
    "The cat of this house sleeps in the barn all day, and the dog has to be awake with it.",
    "Grüße aus Köln",
    "e\u0301 is not composed",
    "wrong \ufffd\ufffd bytes 123",
    "中文日本語",
    *(f"Text number {number}." for number in range(60)),
]


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few documents to a part, in a folder without a memory."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 2000)
    monkeypatch.chdir(tmp_path)


def documents_of(texts: list[str]) -> list[Document]:
    return [Document.of(source="texts", name=str(n), licence=f"CC{n % 2}", text=t) for n, t in enumerate(texts)]


Found = tuple[dict[str, list[Any]], dict[str, list[float]]]


def measured(documents: list[Document]) -> Found:
    """What is found, by column, and the measures of quality."""
    folder = Path("documents")
    with manifest.commit(folder, "documents") as draft:
        draft.facts["documents"] = write_table(documents, Document, draft.path / "documents.parquet")
    found = Measures(folder, manifest.verify(folder))
    rows = list(found.rows())
    columns = {name: list(values) for name, values in zip(found.COLUMNS, zip(*rows, strict=True), strict=True)}
    return columns, {name: values.tolist() for name, values in found.quality().items()}


def test_what_is_found_is_what_the_text_says() -> None:
    """Against plain Python, document by document; the measures against the rules themselves."""
    documents = documents_of(TEXTS)
    columns, quality = measured(documents)
    texts = [document.text for document in documents]
    letters = [sum(map(str.isalpha, text)) for text in texts]
    assert columns == {
        "id": [int.from_bytes(bytes.fromhex(document.id[:16]), signed=True) for document in documents],
        "licence": [document.licence for document in documents],
        "n_characters": [len(text) for text in texts],
        "letters_share": [n / len(text) for n, text in zip(letters, texts, strict=True)],
        "is_nfc": [unicodedata.is_normalized("NFC", text) for text in texts],
        "replacements": [text.count("\ufffd") for text in texts],
    }
    for name in PICTURED:
        assert quality[name] == RULES[name].measure(Batch(texts)).astype(float).tolist()


def test_only_parts_that_changed_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One document more is found with its part, all else is remembered; the result is that of a run without memory."""
    read: list[Path] = []
    of_part = document_measures._of_part

    def counting(file: Path, share: float) -> object:
        read.append(file)
        return of_part(file, share)

    monkeypatch.setattr(document_measures, "_of_part", counting)
    documents = documents_of(TEXTS)
    measured(documents[:-1])
    n_parts = len(read)
    found = measured(documents)
    assert n_parts > 3 and len(read) == n_parts + 1
    measured(documents)
    assert len(read) == n_parts + 1
    Path("data").rename("forgotten")
    anew = measured(documents)
    assert len(read) > 2 * n_parts
    assert found == anew


def test_a_sample_stays_while_the_corpus_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than a number of documents some are measured for quality, and a few more documents change none of it."""
    monkeypatch.setattr(document_measures, "PICTURED_DOCUMENTS", 30)
    documents = documents_of(TEXTS)
    (_, few), (_, more) = measured(documents[:-3]), measured(documents)
    shown = few["gopher-words"]
    assert 5 < len(shown) < 30
    assert more["gopher-words"][: len(shown)] == shown


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=50))
def test_letters_are_those_that_python_calls_letters(text: str) -> None:
    """Of ASCII and of every other script."""
    assert document_measures._letters(text) == sum(map(str.isalpha, text))
