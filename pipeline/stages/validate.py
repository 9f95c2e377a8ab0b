"""Goes in: clean documents and examples. Comes out: a verdict on each thing expected of them, or no training at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import data_report
from pipeline.document_measures import measure
from pipeline.documents import Instruction, Message, Question, Translation, read_records
from pipeline.errors import DataError
from pipeline.expectations import Expectation, Suite, check
from pipeline.manifest import commit, verify
from pipeline.report import Report

READS = {
    "documents": "data/documents/clean",
    "examples": "data/examples/clean",
    "refused": "data/quarantine/ingest",
    "dropped": "data/quarantine/clean",
}
WRITES = {"validation": "data/reports/validation"}

# Data Docs carry the hour they were made at, and the data report holds texts, so they lie beside what DVC hashes:
# data/reports/data_docs and data/reports/data_report.
DATA_DOCS = "data_docs"
DATA_REPORT = "data_report"


@dataclass(frozen=True)
class Params:
    """How much data, and of what shape, is worth training on."""

    minimum_documents: int
    """Fewer documents than this stop the pipeline."""
    maximum_document_characters: int
    """A longer document is probably not prose, and stops the pipeline."""
    minimum_letters_share: float
    """The share of letters among the characters that at least 95 % of documents must have."""
    minimum_examples_per_class: int
    """Fewer training messages of one class than this stop the pipeline."""


def run(
    params: Params, *, documents: Path, examples: Path, refused: Path, dropped: Path, validation: Path, report: Report
) -> None:
    """Check every suite, write Data Docs, the data report and verdicts; DataError if any expectation fails."""
    found = measure(documents, verify(documents))
    verify(examples)
    suites = [
        _documents_suite(params, found.columns),
        _messages_suite(params, read_records(examples / "messages.parquet", Message)),
        _instructions_suite(read_records(examples / "instructions.parquet", Instruction)),
    ]
    if (path := examples / "translations.parquet").exists():
        suites.append(
            _pairs_suite("translations", ((r.split, r.source, r.target) for r in read_records(path, Translation)))
        )
    if (path := examples / "questions.parquet").exists():
        asked = ((r.split, f"{r.question}\0{r.passage}", r.answer) for r in read_records(path, Question))
        suites.append(_pairs_suite("questions", asked))
    data_docs = validation.parent / DATA_DOCS
    report.note(f"checking {sum(len(s.expectations) for s in suites)} expectations in {len(suites)} suites")
    verdicts = check(suites, data_docs)
    report.keep(data_docs, DATA_DOCS)
    page = data_report.write(
        validation.parent / DATA_REPORT,
        documents=documents, examples=examples, refused=refused, dropped=dropped, data_docs=data_docs,
        quality=found.quality,
    )  # fmt: skip
    report.note(f"what went in and what came out: {page}")
    failed = [verdict for verdict in verdicts if not verdict.passed]
    report.metrics({"expectations": len(verdicts), "expectations_failed": len(failed)})
    report.note(f"{len(verdicts) - len(failed)} of {len(verdicts)} expectations hold; read {data_docs / 'index.html'}")
    if failed:
        first = failed[0]
        rows = f" ({first.unexpected:,} rows)" if first.unexpected else f" (found {first.observed})"
        raise DataError(
            f"validate: {first.suite}: {first.meaning}{rows}; {len(failed)} of {len(verdicts)} expectations fail; "
            f"nothing was trained; open {data_docs / 'index.html'}"
        )
    with commit(
        validation, "validation", params=params, inputs={"documents": documents, "examples": examples}
    ) as draft:
        draft.facts["rows"] = {suite.name: len(next(iter(suite.columns.values()))) for suite in suites}
        draft.facts["verdicts"] = [asdict(verdict) for verdict in verdicts]


def _documents_suite(params: Params, columns: Mapping[str, Any]) -> Suite:
    return Suite(
        "documents",
        columns,
        [
            _rows_at_least(params.minimum_documents, "there are fewer documents than validate.minimum_documents"),
            Expectation("ExpectColumnValuesToBeUnique", {"column": "id"}, "two documents have the same id"),
            Expectation("ExpectColumnValuesToNotBeNull", {"column": "licence"}, "a document has no licence"),
            _between("n_characters", 1, params.maximum_document_characters, "a document is empty or far too long"),
            Expectation(
                "ExpectColumnValuesToBeBetween",
                {"column": "letters_share", "min_value": params.minimum_letters_share, "mostly": 0.95},
                "too many documents hold few letters, so they are hardly prose",
            ),
            Expectation(
                "ExpectColumnValuesToBeInSet", {"column": "is_nfc", "value_set": [True]}, "a document is not in NFC"
            ),
            Expectation(
                "ExpectColumnValuesToBeBetween",
                {"column": "replacements", "max_value": 0, "mostly": 0.99},
                "too many documents hold U+FFFD, the mark of text decoded wrongly",
            ),
        ],
    )


def _messages_suite(params: Params, messages: Iterable[Message]) -> Suite:
    rows = list(messages)
    split_of = _splits_by_text((message.text, message.split) for message in rows)
    per_class = Counter(message.label for message in rows if message.split == "train")
    columns: dict[str, list[Any]] = {
        "split": [message.split for message in rows],
        "label": [message.label for message in rows],
        "n_characters": [len(message.text) for message in rows],
        "n_splits": [len(split_of[message.text]) for message in rows],
        "n_training_messages_of_class": [per_class[message.label] for message in rows],
    }
    return Suite(
        "messages",
        columns,
        [
            _rows_at_least(1, "there are no messages"),
            _splits_present(),
            Expectation(
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "label", "value_set": ["ham", "spam"]},
                "a class has no message",
            ),
            _between("n_characters", 1, 2000, "a message is empty or far longer than a message"),
            _between("n_splits", 1, 1, "a message stands in two splits, so a test score would mean nothing"),
            _between(
                "n_training_messages_of_class",
                params.minimum_examples_per_class,
                None,
                "a class has fewer training messages than validate.minimum_examples_per_class",
            ),
        ],
    )


def _instructions_suite(instructions: Iterable[Instruction]) -> Suite:
    rows = list(instructions)
    split_of = _splits_by_text((f"{row.instruction}\0{row.input}", row.split) for row in rows)
    columns: dict[str, list[Any]] = {
        "split": [row.split for row in rows],
        "n_instruction_characters": [len(row.instruction) for row in rows],
        "n_response_characters": [len(row.response) for row in rows],
        "n_splits": [len(split_of[f"{row.instruction}\0{row.input}"]) for row in rows],
    }
    return Suite(
        "instructions",
        columns,
        [
            _rows_at_least(1, "there are no instructions"),
            _splits_present(),
            _between("n_instruction_characters", 1, 4000, "an instruction is empty or far too long"),
            _between("n_response_characters", 1, 4000, "a response is empty or far too long"),
            _between("n_splits", 1, 1, "an instruction stands in two splits, so a test score would mean nothing"),
        ],
    )


def _pairs_suite(name: str, pairs: Iterable[tuple[str, str, str]]) -> Suite:
    """Of (split, what is given, what is to come out)."""
    rows = list(pairs)
    split_of = _splits_by_text((given, split) for split, given, _ in rows)
    columns: dict[str, list[Any]] = {
        "split": [split for split, _, _ in rows],
        "n_characters_given": [len(given) for _, given, _ in rows],
        "n_characters_wanted": [len(wanted) for _, _, wanted in rows],
        "n_splits": [len(split_of[given]) for _, given, _ in rows],
    }
    return Suite(
        name,
        columns,
        [
            _rows_at_least(1, f"there are no {name}"),
            _between("n_characters_given", 1, 20_000, f"of {name}, what is given is empty or far too long"),
            _between("n_characters_wanted", 1, 4000, f"of {name}, what is to come out is empty or far too long"),
            _between("n_splits", 1, 1, f"one of the {name} stands in two splits, so a test score would mean nothing"),
        ],
    )


def _splits_by_text(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for text, split in pairs:
        splits.setdefault(text, set()).add(split)
    return splits


def _rows_at_least(count: int, meaning: str) -> Expectation:
    return Expectation("ExpectTableRowCountToBeBetween", {"min_value": count}, meaning)


def _between(column: str, low: float | None, high: float | None, meaning: str) -> Expectation:
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Expectation("ExpectColumnValuesToBeBetween", {k: v for k, v in arguments.items() if v is not None}, meaning)


def _splits_present() -> Expectation:
    return Expectation(
        "ExpectColumnDistinctValuesToEqualSet",
        {"column": "split", "value_set": ["train", "validation", "test"]},
        "the splits are not train, validation and test",
    )
