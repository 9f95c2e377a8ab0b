"""Goes in: clean examples of one task. Comes out: tokens with targets by split, and how many did not serve, and why.

What does not fit into the context: a message is cut at its end, an instruction, a talk or a pair is left out whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pipeline.documents import Conversation, Message, Preference, Record, read_records
from pipeline.encodings import lister
from pipeline.errors import ConfigurationError, DataError
from pipeline.instruction_rows import instruction_rows

if TYPE_CHECKING:
    import tiktoken

    from model.batches import Example
    from model.preferences import Pair
    from model.templates import PromptTemplate

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Splits = dict[str, list[T]]


@dataclass(frozen=True)
class Task(Generic[T]):
    """What a fine-tuning needs to know of its task."""

    training: list[T]
    """What to learn from."""
    validation: list[T]
    """What to look at while learning."""
    datasets: list[str]
    """The sources of both."""
    counts: Mapping[str, int]
    """too_long, truncated and without_response: how many examples of all splits did not serve as they are. Of
    instructions also supervised_tokens, the targets that training learns."""
    labels: Sequence[str] = ()
    """A classifier's classes, in the order of its outputs."""


@dataclass(frozen=True)
class Reading:
    """How examples are read, whatever the task."""

    examples: Path
    """The folder of clean examples."""
    datasets: Sequence[str]
    """The sources wanted; none named means all."""
    encoding: tiktoken.Encoding
    """The vocabulary."""
    context_length: int
    """Tokens that the model sees at once."""
    template: PromptTemplate
    """How an instruction becomes a prompt."""


def read_responses(reading: Reading) -> Task[Example]:
    """Instructions, translations, questions and talks, of which the responses are learned."""
    splits: Splits[Example] = {"train": [], "validation": [], "test": []}
    counts, seen = _none_yet(), set()
    for dataset, split, example in _responses(reading):
        seen.add(dataset)
        if example is None:
            counts["without_response"] += 1
        elif len(example.ids) >= reading.context_length:
            counts["too_long"] += 1
        else:
            splits[split].append(example)
    counts["supervised_tokens"] = sum(example.scored() for example in splits["train"])
    return _task("instructions", reading, splits, seen, counts)


def _responses(reading: Reading) -> Iterator[tuple[str, str, Example | None]]:
    """Data set, split and example of every record, whole whatever its length; None where it has no response."""
    from model.conversations import Turn, encode_pair, encode_turns

    encode, end_id = lister(reading.encoding), reading.encoding.eot_token
    for row in instruction_rows(reading.examples, reading.datasets):
        example = None
        if row.response.strip():
            example = encode_pair(encode, reading.template, row.instruction, row.input, row.response, end_id=end_id)
        yield row.dataset, row.split, example
    for talk in _records(reading, Conversation, "conversations"):
        turns = [Turn(str(message["role"]), str(message["content"])) for message in json.loads(talk.messages)]
        spoken = [turn.content.strip() for turn in turns if turn.role == "assistant"]
        yield (
            talk.dataset,
            talk.split,
            encode_turns(encode, reading.template, turns, end_id=end_id) if spoken and all(spoken) else None,
        )


def read_messages(reading: Reading, *, balance: bool, seed: int) -> Task[Example]:
    """Messages with labels; with `balance` every class is cut, in either split, to the size of the smallest."""
    from model.conversations import encode_labelled

    rows = list(_records(reading, Message, "messages"))
    labels = sorted({row.label for row in rows})
    if rows and len(labels) < 2:
        raise DataError(f"finetune: all messages have the label {labels}; a classifier needs two classes at least")
    in_training = {row.label for row in rows if row.split == "train"}
    if never := [label for label in labels if label not in in_training]:
        raise DataError(
            f"finetune: no training message has the label {never[0]!r}, which others have; "
            "add some, or take it out of the validation and test messages"
        )
    chosen = {split: [row for row in rows if row.split == split] for split in ("train", "validation", "test")}
    if balance:
        chosen |= {split: balanced(chosen[split], seed) for split in ("train", "validation")}
    counts = _none_yet()
    encode, end_id = lister(reading.encoding), reading.encoding.eot_token
    splits: Splits[Example] = {}
    for split, messages in chosen.items():
        splits[split] = []
        for row in messages:
            counts["truncated"] += len(encode(row.text)) >= reading.context_length
            label = labels.index(row.label)
            splits[split].append(
                encode_labelled(encode, row.text, label, end_id=end_id, context_length=reading.context_length)
            )
    return _task("classification", reading, splits, {row.dataset for row in rows}, counts, labels)


def balanced(rows: Sequence[Message], seed: int) -> list[Message]:
    """As many of every class as the smallest has, drawn by the seed and left in their order."""
    from model.batches import mixed_bits, shuffled

    by_class: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_class.setdefault(row.label, []).append(number)
    smallest = min(map(len, by_class.values()), default=0)
    kept = [
        numbers[place]
        for numbers in by_class.values()
        for place in shuffled(range(smallest), len(numbers), mixed_bits(seed, len(numbers)))
    ]
    return [rows[number] for number in sorted(kept)]


def read_preferences(reading: Reading) -> Task[Pair]:
    """Prompts with a chosen and a rejected response."""
    from model.conversations import encode_pair
    from model.preferences import Pair

    splits: Splits[Pair] = {"train": [], "validation": [], "test": []}
    counts, seen = _none_yet(), set()
    encode, end_id = lister(reading.encoding), reading.encoding.eot_token
    for row in _records(reading, Preference, "preferences"):
        seen.add(row.dataset)
        if not (row.chosen.strip() and row.rejected.strip()):
            counts["without_response"] += 1
            continue
        chosen, rejected = (
            encode_pair(encode, reading.template, row.prompt, "", response, end_id=end_id)
            for response in (row.chosen, row.rejected)
        )
        if max(len(chosen.ids), len(rejected.ids)) >= reading.context_length:
            counts["too_long"] += 1
        else:
            splits[row.split].append(Pair(chosen, rejected))
    return _task("preferences", reading, splits, seen, counts)


def _records(reading: Reading, kind: type[R], name: str) -> Iterator[R]:
    """The records of a kind that come from the data sets wanted; none where there is no such file."""
    path = reading.examples / f"{name}.parquet"
    for record in read_records(path, kind) if path.exists() else ():
        if not reading.datasets or record.dataset in reading.datasets:  # type: ignore[attr-defined]
            yield record


def _none_yet() -> Counter[str]:
    return Counter({"too_long": 0, "truncated": 0, "without_response": 0})


def _task(
    name: str, reading: Reading, splits: Splits[T], seen: set[str], counts: Counter[str], labels: Sequence[str] = ()
) -> Task[T]:
    """The task, once there is something of it in both splits."""
    if missing := sorted(set(reading.datasets) - seen):
        raise ConfigurationError(
            f"finetune: no {name} example is of the data set {missing[0]!r}, which `datasets` names; "
            f"of those named there are: {', '.join(sorted(seen)) or 'none'}"
        )
    if empty := [split for split in ("train", "validation") if not splits[split]]:
        raise DataError(
            f"finetune: no {name} example is left in the split {empty[0]}: of all splits {counts['too_long']:,} were "
            f"too long for the context of {reading.context_length} tokens, {counts['without_response']:,} had no "
            "response; give other examples or a longer context"
        )
    return Task(splits["train"], splits["validation"], sorted(seen), dict(counts), labels)
