"""Published test sets: each form gives the harness's prompts, and a record that is none is counted with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigurationError, DataError
from pipeline.evaluations.items import Item
from pipeline.evaluations.multiple_choice import Splitter, measures, read_tasks


def write(path: Path, *records: Any) -> Path:
    """A file of JSON Lines; what is no record is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


HELLASWAG = {
    "activity_label": "Cooking", "ctx_a": "A cat [header] cooks.", "ctx_b": "the cat",
    "endings": ["eats [step] it.", "flies."], "label": "1",
}  # fmt: skip
ARC = {"question": "What is wet?", "choices": {"text": ["fire", "rain"], "label": ["A", "B"]}, "answerKey": "B"}
COPA = {"premise": "It rained.", "choice1": "I got wet.", "choice2": "I slept.", "question": "effect", "label": 0}
BLIMP = {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps.", "UID": "agreement"}


@pytest.mark.parametrize(
    ("name", "record", "task", "item"),
    [
        ("h.jsonl", HELLASWAG, "hellaswag", Item("1", "Cooking: A cat cooks. The cat", ("eats it.", "flies."), 1)),
        ("arc.jsonl", ARC, "arc_easy", Item("1", "Question: What is wet?\nAnswer:", ("fire", "rain"), 1)),
        (
            "ARC-Challenge.jsonl",
            {"query": "Question: What is wet?", "choices": ["fire", "rain"], "gold": 1},
            "arc_challenge",
            Item("1", "Question: What is wet?\nAnswer:", ("fire", "rain"), 1),
        ),
        ("copa.jsonl", COPA, "copa", Item("1", "It rained therefore", (" i got wet.", " i slept."), 0)),
        (
            "joined.jsonl",
            {"query": "It rained, therefore", "choices": ["I got wet.", "I slept."], "gold": 0},
            "copa",
            Item("1", "It rained therefore", (" i got wet.", " i slept."), 0),
        ),
        ("b.jsonl", BLIMP, "blimp_agreement", Item("1", "", ("Cats sleep.", "Cats sleeps."), 0)),
    ],
)
def test_each_form_gives_the_harness_s_prompt(
    name: str, record: dict[str, Any], task: str, item: Item, tmp_path: Path
) -> None:
    """Context, choices and answer are those of the harness's task of that name."""
    (found,) = read_tasks(write(tmp_path / name, record))
    assert (found.name, found.items, found.rejected) == (task, [item], {})


def test_six_lines_are_a_question_as_they_are(tmp_path: Path) -> None:
    """Context, number of the right ending, endings: nothing is prepared again."""
    path = tmp_path / "hellaswag.txt"
    path.write_text("Cooking: A cat cooks. the cat\n2\neats.\nflies.\nsleeps.\nsings.\n")
    (task,) = read_tasks(path)
    assert task.items == [Item("1", "Cooking: A cat cooks. the cat", ("eats.", "flies.", "sleeps.", "sings."), 2)]


def test_bad_records_are_counted_and_good_ones_kept(tmp_path: Path) -> None:
    """Each line that is no item has its number and a reason, which quotes nothing of it."""
    secret = {**ARC, "answerKey": "SECRET"}
    single = {**ARC, "choices": {"text": ["fire"], "label": ["B"]}}
    path = write(tmp_path / "arc.jsonl", ARC, "{broken", [1], {"question": "SECRET"}, secret, single, ARC)
    (task,) = read_tasks(path)
    assert [item.id for item in task.items] == ["1", "7"]
    assert list(task.rejected) == ["2", "3", "4", "5", "6"]
    assert task.rejected["2"] == "not JSON" and task.rejected["3"] == "not a JSON object"
    assert "SECRET" not in str(task.rejected)


def test_a_folder_holds_a_task_for_each_file_of_a_known_form(tmp_path: Path) -> None:
    """Other files are passed over; two of the same name, none at all, and a missing path are refused."""
    write(tmp_path / "b.jsonl", BLIMP)
    write(tmp_path / "other.jsonl", {"something": "else"})
    (tmp_path / "empty.jsonl").touch()
    assert [task.name for task in read_tasks(tmp_path)] == ["blimp_agreement"]
    with pytest.raises(ConfigurationError, match=r"no file of a known form; known are those of HellaSwag"):
        read_tasks(tmp_path / "other.jsonl")
    with pytest.raises(ConfigurationError, match="not there"):
        read_tasks(tmp_path / "nowhere")
    write(tmp_path / "c.jsonl", BLIMP)
    with pytest.raises(ConfigurationError, match="blimp_agreement is there twice"):
        read_tasks(tmp_path)
    bad = write(tmp_path / "d.jsonl", {**BLIMP, "sentence_bad": ""})
    with pytest.raises(DataError, match="none of its 1 records"):
        read_tasks(bad)


def test_norm_divides_by_characters(tmp_path: Path) -> None:
    """The long right choice loses by its sum and wins by its mean; chance is one in two."""
    record = {**HELLASWAG, "endings": ["ab", "abcd"], "label": "1"}
    (task,) = read_tasks(write(tmp_path / "h.jsonl", record))
    acc, norm = measures(task, [[-3.0, -4.0]])
    assert (acc.scores, norm.scores, acc.baseline) == ((0.0,), (1.0,), 0.5)


def test_spaces_that_end_a_context_belong_to_the_choice() -> None:
    """Context and choice are split together, and the choice is what the context alone does not give."""
    splitter = Splitter(lambda text: list(text.encode()), 256)
    choice = splitter.choice("ab ", ["c"])
    assert (list(choice.context), choice.continuations) == ([97, 98], [[32, 99]])
    assert list(splitter.choice("", ["c"]).context) == [256]
    assert list(Splitter(splitter.encode, 256, begins=True).choice("ab", ["c"]).context) == [256, 97, 98]
    with pytest.raises(ValueError, match="adds no token"):
        splitter.choice("ab", [""])
