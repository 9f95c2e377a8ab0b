"""Validate lets good data pass, and stops data that would train a bad model or fake a good score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline import manifest
from pipeline.documents import (
    KINDS,
    Conversation,
    Document,
    Instruction,
    Message,
    Preference,
    Question,
    Translation,
    read_records,
    write_records,
)
from pipeline.errors import DataError, IntegrityError

pytestmark = pytest.mark.slow  # Great Expectations takes seconds to load

CANARY = "SECRET-CANARY-1881"


def rewrite(project: Any, place: str, **files: Iterable[Any]) -> None:
    """Commit the artefact again with other records and the same facts."""
    facts = project.manifest(place).facts
    with manifest.commit(project.path(place), place.split("/")[0]) as draft:
        for name, records in files.items():
            write_records(records, KINDS[name], draft.path / f"{name}.parquet")
        draft.facts |= facts


def records(project: Any) -> tuple[list[Document], list[Message], list[Instruction]]:
    examples = project.path("examples/clean")
    return (
        list(read_records(project.path("documents/clean/documents.parquet"), Document)),
        list(read_records(examples / "messages.parquet", Message)),
        list(read_records(examples / "instructions.parquet", Instruction)),
    )


def refusal(project: Any, **changes: Any) -> str:
    """Why the stage fails; there must be no artefact, but Data Docs to look at."""
    place = project.path("reports/validation")
    (place / "manifest.json").unlink()
    place.rmdir()
    with pytest.raises(DataError) as caught:
        project.run("validate", **changes)
    assert not place.exists()
    assert (place.parent / "data_docs" / "index.html").exists()
    assert (place.parent / "data_report" / "index.html").exists()
    return str(caught.value)


def test_good_data_passes_with_a_verdict_for_each_expectation(made: Any) -> None:
    """The artefact holds every verdict, all passed, the rows they were about and its inputs; again gives the same."""
    report = made.run("validate")
    found = made.manifest("reports/validation")
    assert found.facts["rows"] == {"documents": 40, "messages": 36, "instructions": 18}
    assert {verdict["passed"] for verdict in found.facts["verdicts"]} == {True}
    assert {verdict["suite"] for verdict in found.facts["verdicts"]} == {"documents", "messages", "instructions"}
    assert found.inputs == {
        "documents": made.manifest("documents/clean").digest,
        "examples": made.manifest("examples/clean").digest,
    }
    assert report.numbers == {"expectations": len(found.facts["verdicts"]), "expectations_failed": 0}
    assert report.kept == [Path("data/reports/data_docs")]
    made.run("validate")
    assert made.manifest("reports/validation").digest == found.digest


def test_no_row_never_passes(made: Any) -> None:
    """An empty table fulfils every expectation, and is refused all the same."""
    rewrite(made, "documents/clean", documents=[])
    with pytest.raises(DataError, match="validate: documents: the table has no rows; there is nothing to train on"):
        made.run("validate")


def test_too_few_documents_stop_the_pipeline(made: Any) -> None:
    """The message says what is wrong, by the param that sets it, and where to look."""
    said = refusal(made, minimum_documents=41)
    assert said.startswith(
        "validate: documents: there are fewer documents than validate.minimum_documents (found 40); 1 of "
    )
    assert said.endswith("data_docs/index.html")


def test_a_message_in_two_splits_stops_the_pipeline(made: Any) -> None:
    """A message that is trained on and tested on is counted in both places; its text is in no report."""
    _, messages, instructions = records(made)
    leak = [Message.of(dataset="d", split=split, label="ham", text=f"{CANARY} leaks") for split in ("train", "test")]
    rewrite(made, "examples/clean", messages=[*messages, *leak], instructions=instructions)
    said = refusal(made)
    assert "messages: a message stands in two splits, so a test score would mean nothing (2 rows)" in said
    pages = [page.read_text(encoding="utf-8") for page in made.path("reports").rglob("*.html")]
    assert pages
    assert not any(CANARY in text for text in [said, *pages, *made.report.notes])


def test_an_instruction_in_two_splits_stops_the_pipeline(made: Any) -> None:
    """The same question with the same input may not be both learned and asked."""
    _, messages, instructions = records(made)
    leak = replace(next(row for row in instructions if row.split == "train"), split="test", id="0" * 64)
    rewrite(made, "examples/clean", messages=messages, instructions=[*instructions, leak])
    assert "an instruction stands in two splits, so a test score would mean nothing (2 rows)" in refusal(made)


@pytest.mark.parametrize("kind", ["conversations", "translations", "questions", "preferences"])
def test_no_kind_of_example_stands_in_two_splits(made: Any, kind: str) -> None:
    """What is given, twice in two splits, with two answers; in one split it may be."""
    _, messages, instructions = records(made)
    of: dict[str, Callable[[str, str], Any]] = {
        "conversations": lambda split, _: Conversation.of(dataset="d", split=split, messages=f"[{CANARY}]"),
        "translations": lambda split, answer: Translation.of(
            dataset="d", split=split, source_language="en", target_language="de", source=CANARY, target=answer
        ),
        "questions": lambda split, answer: Question.of(
            dataset="d", split=split, question=CANARY, passage="p", answer=answer
        ),
        "preferences": lambda split, answer: Preference.of(
            dataset="d", split=split, prompt=CANARY, chosen=answer, rejected="no"
        ),
    }
    found = [of[kind]("train", answer) for answer in ("one", "two")]
    rewrite(made, "examples/clean", messages=messages, instructions=instructions, **{kind: found})
    made.run("validate")
    assert made.manifest("reports/validation").facts["rows"][kind] == 2
    rewrite(
        made, "examples/clean", messages=messages, instructions=instructions, **{kind: [*found, of[kind]("test", "x")]}
    )
    assert "stands in two splits, so a test score would mean nothing (3 rows)" in refusal(made)


def test_every_kind_of_bad_document_is_found(made: Any) -> None:
    """Each thing expected of documents fails on the documents that lack it; the first is told, and how many others."""
    good, _, _ = records(made)
    numbered = (f"{number:064x}" for number in count())
    repeated = [Document("f" * 64, "s", "n", "l", "o", "twice")] * 2
    wrong_length = [
        Document(next(numbered)[::-1], "s", "n", "l", "o", ""),
        Document(next(numbered)[::-1], "s", "n", "l", "o", "x" * 1001),
    ]
    not_prose = [Document(next(numbered)[::-1], "s", "n", "l", "o", "1234 5678") for _ in range(9)]
    wrongly_decoded = [
        Document(next(numbered)[::-1], "s", "n", "l", "", text) for text in ("cafe\u0301", "a\ufffdbcdef")
    ]
    rewrite(made, "documents/clean", documents=[*good, *repeated, *wrong_length, *not_prose, *wrongly_decoded])
    said = refusal(made, maximum_document_characters=1000)
    assert "validate: documents: two documents have the same id (2 rows); 5 of " in said


def test_messages_may_be_of_any_two_classes(made: Any) -> None:
    """Whatever they are called, and as long as params let them be."""
    _, messages, instructions = records(made)
    other = [replace(m, label="good" if m.label == "ham" else "bad", text=f"{m.text} {'x' * 5000}") for m in messages]
    rewrite(made, "examples/clean", messages=other, instructions=instructions)
    made.run("validate")
    said = refusal(made, maximum_example_characters=5000)
    assert "a message is empty or longer than validate.maximum_example_characters (36 rows); 1 of " in said


def test_messages_of_one_class_are_refused(made: Any) -> None:
    """There is nothing to tell apart."""
    _, messages, instructions = records(made)
    rewrite(made, "examples/clean", messages=[replace(m, label="x") for m in messages], instructions=instructions)
    assert "all messages are of one class" in refusal(made)


def test_messages_of_one_small_class_and_split_are_refused(made: Any) -> None:
    """A class that is missing or small, or a split of another name, would make a classifier of no worth."""
    _, messages, instructions = records(made)
    spoiled = [replace(m, label="spam", split="train" if m.split == "train" else "dev") for m in messages]
    rewrite(made, "examples/clean", messages=spoiled, instructions=instructions)
    said = refusal(made, minimum_examples_per_class=13)
    assert "validate: messages: the splits are not train, validation and test (1 rows); 3 of " in said


def test_altered_input_is_refused(made: Any) -> None:
    """A file that is not what its manifest says is never validated."""
    path = made.path("documents/clean/documents.parquet/000000.parquet")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match=r"documents\.parquet/000000\.parquet: its bytes are not"):
        made.run("validate")
