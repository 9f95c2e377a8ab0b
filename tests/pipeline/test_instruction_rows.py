"""Records of several kinds become instructions in one form."""

from __future__ import annotations

from pathlib import Path

from pipeline.documents import Instruction, Question, Translation, write_records
from pipeline.instruction_rows import InstructionRow, instruction_rows

INSTRUCTION = InstructionRow("tasks", "instructions", "train", "Add.", "1 2", "3")
TRANSLATION = InstructionRow("tatoeba", "translations", "test", "Translate from English to German.", "Yes.", "Ja.")
QUESTION = InstructionRow("notes", "questions", "train", "Who sleeps?", "The cat sleeps.", "The cat")


def scene(folder: Path) -> Path:
    """One record of each kind."""
    write_records(
        [Instruction.of(dataset="tasks", split="train", instruction="Add.", input="1 2", response="3")],
        Instruction,
        folder / "instructions.parquet",
    )
    write_records(
        [
            Translation.of(
                dataset="tatoeba",
                split="test",
                source_language="English",
                target_language="German",
                source="Yes.",
                target="Ja.",
            )
        ],
        Translation,
        folder / "translations.parquet",
    )
    write_records(
        [
            Question.of(
                dataset="notes", split="train", question="Who sleeps?", passage="The cat sleeps.", answer="The cat"
            )
        ],
        Question,
        folder / "questions.parquet",
    )
    return folder


def test_every_kind_is_asked_as_an_instruction(tmp_path: Path) -> None:
    """A translation names its languages, a question is asked about its passage, an instruction stays as it is."""
    assert list(instruction_rows(scene(tmp_path), [])) == [INSTRUCTION, TRANSLATION, QUESTION]


def test_only_the_data_sets_named_are_taken(tmp_path: Path) -> None:
    """Other data sets' records are left out, and a kind without records has no file."""
    examples = scene(tmp_path)
    assert list(instruction_rows(examples, ["notes", "tasks"])) == [INSTRUCTION, QUESTION]
    (examples / "questions.parquet").unlink()
    assert list(instruction_rows(examples, ["notes"])) == []
