"""Goes in: clean documents and examples. Comes out: a verdict on each thing expected of them, or no training at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import data_report
from pipeline.document_measures import Measures
from pipeline.documents import (
    Conversation,
    Instruction,
    Message,
    Preference,
    Question,
    Translation,
    read_records,
)
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
    maximum_example_characters: int
    """A longer text in an example, conversations excepted, is probably a mistake, and stops the pipeline."""


def run(
    params: Params, *, documents: Path, examples: Path, refused: Path, dropped: Path, validation: Path, report: Report
) -> None:
    """Check every suite, write Data Docs, the data report and verdicts; DataError if any expectation fails."""
    measures = Measures(documents, verify(documents))
    verify(examples)
    suites = [_documents_suite(params, measures)]
    suites += [
        suite(examples / f"{kind}.parquet", params)
        for kind, suite in _SUITES.items()
        if (examples / f"{kind}.parquet").exists() or kind in ("messages", "instructions")
    ]
    data_docs = validation.parent / DATA_DOCS
    report.note(f"checking {sum(len(s.expectations) for s in suites)} expectations in {len(suites)} suites")
    checked = check(suites, data_docs)
    report.keep(data_docs, DATA_DOCS)
    page = data_report.write(
        validation.parent / DATA_REPORT,
        documents=documents, examples=examples, refused=refused, dropped=dropped, data_docs=data_docs,
        quality=measures.quality(),
    )  # fmt: skip
    report.note(f"what went in and what came out: {page}")
    verdicts = [verdict for each in checked for verdict in each.verdicts]
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
        draft.facts["rows"] = {each.suite: each.rows for each in checked}
        draft.facts["verdicts"] = [asdict(verdict) for verdict in verdicts]


def _documents_suite(params: Params, measures: Measures) -> Suite:
    return Suite(
        "documents",
        measures.COLUMNS,
        measures.rows(),
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


def _messages_suite(table: Path, params: Params) -> Suite:
    longest = params.maximum_example_characters
    return Suite(
        "messages",
        ("split", "given", "label", "n_characters"),
        ((row.split, _digest(row.text), row.label, len(row.text)) for row in read_records(table, Message)),
        [
            _rows_at_least(1, "there are no messages"),
            _splits_present(),
            Expectation(
                "ExpectColumnUniqueValueCountToBeBetween",
                {"column": "label", "min_value": 2},
                "all messages are of one class, so there is nothing to tell apart",
            ),
            _between("n_characters", 1, longest, f"a message is empty or {_TOO_LONG}"),
            _in_one_split("a message"),
            _between(
                "n_training_messages_of_class",
                params.minimum_examples_per_class,
                None,
                "a class has fewer training messages than validate.minimum_examples_per_class",
            ),
        ],
        f"SELECT * FROM ({_WITH_SPLITS}) "
        "JOIN (SELECT label, SUM(split = 'train') AS n_training_messages_of_class FROM rows GROUP BY label) "
        "USING (label)",
    )


def _instructions_suite(table: Path, params: Params) -> Suite:
    longest = params.maximum_example_characters
    return Suite(
        "instructions",
        ("split", "given", "n_instruction_characters", "n_response_characters"),
        (
            (row.split, _digest(f"{row.instruction}\0{row.input}"), len(row.instruction), len(row.response))
            for row in read_records(table, Instruction)
        ),
        [
            _rows_at_least(1, "there are no instructions"),
            _splits_present(),
            _between("n_instruction_characters", 1, longest, f"an instruction is empty or {_TOO_LONG}"),
            _between("n_response_characters", 1, longest, f"a response is empty or {_TOO_LONG}"),
            _in_one_split("an instruction"),
        ],
        _WITH_SPLITS,
    )


def _conversations_suite(table: Path, params: Params) -> Suite:
    return Suite(
        "conversations",
        ("split", "given"),
        ((row.split, _digest(row.messages)) for row in read_records(table, Conversation)),
        [_rows_at_least(1, "there are no conversations"), _in_one_split("a conversation")],
        _WITH_SPLITS,
    )


def _translations_suite(table: Path, params: Params) -> Suite:
    pairs = ((r.split, r.source, r.target) for r in read_records(table, Translation))
    return _pairs_suite("translations", pairs, params)


def _questions_suite(table: Path, params: Params) -> Suite:
    asked = ((r.split, f"{r.question}\0{r.passage}", r.answer) for r in read_records(table, Question))
    return _pairs_suite("questions", asked, params)


def _preferences_suite(table: Path, params: Params) -> Suite:
    pairs = ((r.split, r.prompt, r.chosen) for r in read_records(table, Preference))
    return _pairs_suite("preferences", pairs, params)


def _pairs_suite(name: str, pairs: Iterable[tuple[str, str, str]], params: Params) -> Suite:
    """Of (split, what is given, what is to come out)."""
    longest = params.maximum_example_characters
    return Suite(
        name,
        ("split", "given", "n_characters_given", "n_characters_wanted"),
        ((split, _digest(given), len(given), len(wanted)) for split, given, wanted in pairs),
        [
            _rows_at_least(1, f"there are no {name}"),
            _between("n_characters_given", 1, longest, f"of {name}, what is given is empty or {_TOO_LONG}"),
            _between("n_characters_wanted", 1, longest, f"of {name}, what is to come out is empty or {_TOO_LONG}"),
            _in_one_split(f"one of the {name}"),
        ],
        _WITH_SPLITS,
    )


# Of the kinds of examples, what is expected of each; the first two are always there.
_SUITES: dict[str, Callable[[Path, Params], Suite]] = {
    "messages": _messages_suite,
    "instructions": _instructions_suite,
    "conversations": _conversations_suite,
    "translations": _translations_suite,
    "questions": _questions_suite,
    "preferences": _preferences_suite,
}
_TOO_LONG = "longer than validate.maximum_example_characters"
# In how many splits what is given stands, beside each row.
_WITH_SPLITS = (
    "SELECT * FROM rows JOIN (SELECT given, COUNT(DISTINCT split) AS n_splits FROM rows GROUP BY given) USING (given)"
)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _in_one_split(what: str) -> Expectation:
    return _between("n_splits", 1, 1, f"{what} stands in two splits, so a test score would mean nothing")


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
