"""Examples of each task become tokens with targets, and what does not serve is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from model.gpt import IGNORE
from model.templates import PLAIN
from pipeline.documents import (
    KINDS,
    Conversation,
    Instruction,
    Message,
    Preference,
    Record,
    Translation,
    write_records,
)
from pipeline.encodings import encoding_of
from pipeline.errors import ConfigurationError, DataError
from pipeline.task_examples import Reading, balanced, read_messages, read_preferences, read_responses

BYTES = encoding_of({bytes([byte]): byte for byte in range(256)})
SPLITS = ("train", "validation", "test")
Read = Callable[..., Reading]


@pytest.fixture
def reading(tmp_path: Path) -> Read:
    """Write records of any kinds, and say how they are to be read: a token per byte, 80 to a context."""

    def write(records: Sequence[Record], datasets: Sequence[str] = (), context_length: int = 80) -> Reading:
        for name, kind in KINDS.items():
            if found := [record for record in records if isinstance(record, kind)]:
                write_records(found, kind, tmp_path / f"{name}.parquet")
        return Reading(tmp_path, datasets, BYTES, context_length, PLAIN)

    return write


def instruction(split: str, response: str = "ok", input: str = "", dataset: str = "tasks") -> Instruction:
    """An instruction of four words."""
    return Instruction.of(dataset=dataset, split=split, instruction="Say it.", input=input, response=response)


def talk(split: str, *contents: str) -> Conversation:
    """A talk of user and assistant in turn."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return Conversation.of(dataset="talks", split=split, messages=json.dumps(turns))


def message(split: str, label: str, text: str = "hello") -> Message:
    """A message."""
    return Message.of(dataset="post", split=split, label=label, text=text)


def test_four_kinds_are_learned_as_responses(reading: Read) -> None:
    """Instructions, translations and talks come together, in the order of kinds, whatever split they are of."""
    translations = [
        Translation.of(
            dataset="pairs", split=split, source_language="German", target_language="English", source="ja", target="yes"
        )
        for split in SPLITS
    ]
    records = [instruction(s) for s in SPLITS] + translations + [talk(s, "Hi", "Ho", "Ha", "He") for s in SPLITS]
    task = read_responses(reading(records, context_length=200))
    learned = [[t for t in e.targets if t != IGNORE] for e in task.training]  # type: ignore[union-attr]
    end = [BYTES.eot_token]
    assert learned == [[*b"ok", *end], [*b"yes", *end], [*b"Ho", *end, *b"He", *end]]
    assert task.datasets == ["pairs", "talks", "tasks"]
    assert task.counts["supervised_tokens"] == sum(map(len, learned))


WHITE = " " * 1_500_000


@pytest.mark.parametrize(
    ("read", "record"),
    [
        (read_responses, instruction("train", input=WHITE)),
        (read_responses, talk("train", f"Hi{WHITE}.", "Ho")),
        (partial(read_messages, balance=False, seed=0), message("train", "ham", WHITE)),
        (
            read_preferences,
            Preference.of(dataset="pairs", split="train", prompt=f"a{WHITE}b", chosen="yes", rejected="no"),
        ),
    ],
    ids=["instruction", "talk", "message", "preference"],
)
def test_what_tiktoken_cannot_split_is_an_error_of_the_data(
    reading: Read, read: Callable[[Reading], object], record: Record
) -> None:
    """A million white-space characters in a row end in a DataError, whatever the kind, and not in tiktoken's panic."""
    others = [message(split, label) for split in SPLITS for label in ("ham", "spam")]
    with pytest.raises(DataError, match="a million white-space characters"):
        read(reading([record, *others]))


def test_only_the_data_sets_named_are_learned(reading: Read) -> None:
    """Naming data sets leaves the others out; naming one that is not there is an error with those that are."""
    records = [instruction(split) for split in SPLITS] + [instruction(split, dataset="more") for split in SPLITS]
    task = read_responses(reading(records, ["more"]))
    assert (task.datasets, len(task.training)) == (["more"], 1)
    with pytest.raises(
        ConfigurationError, match=r"no instructions example is of the data set 'mor', .* there are: tasks"
    ):
        read_responses(reading(records, ["mor", "tasks"]))


def test_what_cannot_be_learned_is_counted_and_left_out(reading: Read) -> None:
    """An empty response, a talk that nobody answers, and what is longer than the context are no examples."""
    faults = [
        instruction("train", response=" \n"),
        talk("train", "Hi"),
        talk("train", "Hi", ""),
        instruction("train", input="x" * 50),
        talk("train", "Hi", "y" * 50),
    ]
    task = read_responses(reading([*faults, *(instruction(split) for split in SPLITS)]))
    assert len(task.training) == 1
    assert task.counts == {"too_long": 2, "truncated": 0, "without_response": 3, "supervised_tokens": 3}


def test_nothing_to_learn_is_refused(reading: Read) -> None:
    """Where no training target is left, the error counts why: the run never starts."""
    records = [instruction("train", response=""), *(instruction(split) for split in SPLITS[1:])]
    with pytest.raises(DataError, match=r"left in the split train: .* 0 were too long .*, 1 had no response"):
        read_responses(reading(records))


def test_a_message_is_cut_at_the_context_and_counted(reading: Read) -> None:
    """A long message keeps its beginning: the head reads the last token that fits."""
    records = [message(split, label, "z" * 100) for split in SPLITS for label in ("ham", "spam")]
    task = read_messages(reading(records), balance=False, seed=0)
    assert {len(example.ids) for example in task.training} == {80}
    assert (task.counts["truncated"], task.labels) == (6, ["ham", "spam"])


def test_a_label_that_training_never_sees_is_refused(reading: Read) -> None:
    """A class that only the validation or test messages have cannot be learned; the error names it."""
    records = [message(split, label) for split in SPLITS for label in ("ham", "spam")] + [message("test", "eggs")]
    with pytest.raises(DataError, match="no training message has the label 'eggs', which others have"):
        read_messages(reading(records), balance=False, seed=0)


def test_balancing_cuts_every_class_to_the_smallest(reading: Read) -> None:
    """As many of each class are kept, the same for the same seed, others for another, in their order; test is whole."""
    rows = [message("train", "ham", f"ham {n}") for n in range(50)] + [
        message("train", "spam", str(n)) for n in range(9)
    ]
    kept = balanced(rows, 1)
    assert Counter(row.label for row in kept) == {"ham": 9, "spam": 9}
    assert kept == [row for row in rows if row in kept] == balanced(rows, 1)
    assert kept != balanced(rows, 2)
    others = [
        message(split, label, f"{label} {n}")
        for split in SPLITS[1:]
        for label, k in (("ham", 3), ("spam", 2))
        for n in range(k)
    ]
    task = read_messages(reading([*rows, *others]), balance=True, seed=1)
    assert (len(task.training), len(task.validation)) == (18, 4)


def test_both_responses_of_a_preference_follow_the_prompt(reading: Read) -> None:
    """Chosen and rejected are learned after the same prompt; a pair of which one is empty or too long is left out."""
    pairs = [("yes", "no"), ("yes", ""), ("y" * 99, "no")]
    records = [
        Preference.of(dataset="votes", split=split, prompt=f"Well {n}?", chosen=chosen, rejected=rejected)
        for split in SPLITS
        for n, (chosen, rejected) in enumerate(pairs)
    ]
    task = read_preferences(reading(records))
    [pair] = task.training
    prompt = list(PLAIN.prompt("Well 0?").encode())
    assert (pair.chosen.ids, pair.rejected.ids) == ([*prompt, *b"yes"], [*prompt, *b"no"])
    assert (task.counts["without_response"], task.counts["too_long"]) == (3, 3)
