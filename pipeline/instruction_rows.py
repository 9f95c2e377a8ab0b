"""Goes in: the clean examples. Comes out: all that can be asked of a model as an instruction, in one form.

Training and evaluation both read this, so a model is asked for a translation as it learned to give one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.documents import Instruction, Question, Translation, read_records


@dataclass(frozen=True, slots=True)
class InstructionRow:
    """One instruction with its response, and the record it was made of."""

    dataset: str
    """The source of the record."""
    kind: str
    """What the record is: instructions, translations or questions."""
    split: str
    """train, validation or test."""
    instruction: str
    """What is to be done."""
    input: str
    """What it is to be done to, or empty."""
    response: str
    """What is to come out."""


def instruction_rows(examples: Path, datasets: Sequence[str]) -> Iterator[InstructionRow]:
    """Every instruction, translation and question of the data sets named (of all, if none is), in the order of files.

    Conversations have turns and no single response: `model.conversations.encode_turns` renders those.
    """
    for row in _all_rows(examples):
        if not datasets or row.dataset in datasets:
            yield row


def _all_rows(examples: Path) -> Iterator[InstructionRow]:
    for path in _present(examples, "instructions"):
        for r in read_records(path, Instruction):
            yield InstructionRow(r.dataset, "instructions", r.split, r.instruction, r.input, r.response)
    for path in _present(examples, "translations"):
        for t in read_records(path, Translation):
            wish = f"Translate from {t.source_language} to {t.target_language}."
            yield InstructionRow(t.dataset, "translations", t.split, wish, t.source, t.target)
    for path in _present(examples, "questions"):
        for q in read_records(path, Question):
            yield InstructionRow(q.dataset, "questions", q.split, q.question, q.passage, q.answer)


def _present(examples: Path, kind: str) -> list[Path]:
    """The table of a kind, if there are records of it."""
    path = examples / f"{kind}.parquet"
    return [path] if path.exists() else []
