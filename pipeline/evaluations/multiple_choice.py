"""Goes in: a language model and questions with choices. Comes out: how often it finds the right one the likeliest.

The rules are those of EleutherAI's lm-evaluation-harness 0.4, and the figures agree with its own to 1e-3: a space
stands before a choice; spaces that end a context are its continuation's; context and choice are split into tokens
together; without a context the end-of-text comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError, DataError
from pipeline.evaluations import arc, blimp, copa, hellaswag
from pipeline.evaluations.answers import Answers
from pipeline.evaluations.items import Item, Task
from pipeline.evaluations.measures import Measure

if TYPE_CHECKING:
    from model.choices import Choice
    from model.gpt import GPT

FORMATS = (hellaswag.read, arc.read, copa.read, blimp.read)
KNOWN = "HellaSwag, ARC, COPA, BLiMP"
DELIMITER = " "
# Items are batched within a block and kept together, so that a resumed run has the bits of one that never stopped.
BLOCK_ITEMS = 256


@dataclass(frozen=True)
class Splitter:
    """How a model's texts become tokens."""

    encode: Callable[[str], list[int]]
    """Ordinary tokens of a text."""
    start_id: int
    """What a text without anything before it begins with."""
    begins: bool = False
    """Whether it stands before every context too, as Llama's own tokenizers put it."""

    def choice(self, context: str, continuations: Sequence[str]) -> Choice:
        """The tokens of a context and of each continuation; ValueError where one adds no token of its own."""
        from model.choices import Choice

        if not context:
            return Choice([self.start_id], [_some(self.encode(text)) for text in continuations])
        bare = context.rstrip()
        spaces = context[len(bare) :]
        beginning = [self.start_id] if self.begins else []
        context_ids = self.encode(bare)
        wholes = [self.encode(bare + spaces + text) for text in continuations]
        return Choice([*beginning, *context_ids], [_some(whole[len(context_ids) :]) for whole in wholes])


def _some(ids: list[int]) -> list[int]:
    if not ids:
        raise ValueError("a continuation adds no token to its context")
    return ids


@dataclass(frozen=True)
class Pace:
    """What scoring took, without what was found before."""

    tokens: int
    """Of contexts and choices, each context counted once."""
    seconds: float


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file, or of every file in a folder that is one; ConfigurationError if there is none."""
    if not path.exists():
        raise ConfigurationError(f"--data {path}: not there")
    files = sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".txt")) if path.is_dir() else [path]
    tasks = []
    for file in files:
        if file.stat().st_size and (task := next((t for read in FORMATS if (t := read(file)) is not None), None)):
            if not task.items:
                raise DataError(f"{file}: none of its {len(task.rejected):,} records can be asked")
            tasks.append(task)
    if not tasks:
        raise ConfigurationError(f"--data {path}: no file of a known form; known are those of {KNOWN}")
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"--data {path}: {', '.join(sorted(twice))} is there twice; name one file")
    return tasks


def evaluate(
    model: GPT,
    splitter: Splitter,
    task: Task,
    answers: Answers,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Measure], Pace]:
    """Score what `answers` does not hold yet, keep it there, and work out the task's metrics."""
    from model.choices import score_continuations

    tokens, began = 0, time.perf_counter()
    for first in range(0, len(task.items), BLOCK_ITEMS):
        block = task.items[first : first + BLOCK_ITEMS]
        if not all(_key(task, item) in answers for item in block):
            choices = [_choice(splitter, task, item) for item in block]
            try:
                scores = score_continuations(model, choices)
            except ValueError as error:
                raise DataError(f"{task.name}: {error}, counted from item {block[0].id}") from error
            found = [[score.log_probability for score in row] for row in scores]
            answers.add({_key(task, item): row for item, row in zip(block, found, strict=True)})
            tokens += sum(len(c.context) + sum(map(len, c.continuations)) for c in choices)
        on_progress(first + len(block), len(task.items))
    pace = Pace(tokens, time.perf_counter() - began)
    return measures(task, [answers[_key(task, item)] for item in task.items]), pace


def measures(task: Task, log_probabilities: Sequence[Sequence[float]]) -> list[Measure]:
    """The task's metrics: 1 for each item whose right choice is the likeliest, of equals the first."""
    lengths: dict[str, Callable[[str], int]] = {
        "acc": lambda _: 1,
        "acc_norm": len,
        "acc_bytes": lambda text: len(text.encode()),
    }
    found = []
    for metric in task.metrics:
        hits = []
        for item, row in zip(task.items, log_probabilities, strict=True):
            scores = [p / lengths[metric](choice) for p, choice in zip(row, item.choices, strict=True)]
            hits.append(float(scores.index(max(scores)) == item.gold))
        chance = sum(1 / len(item.choices) for item in task.items) / len(task.items)
        ids = tuple(item.id for item in task.items)
        found.append(Measure(f"{task.name} {metric}", ids, tuple(hits), task.digest, chance, "guessing"))
    return found


def _choice(splitter: Splitter, task: Task, item: Item) -> Choice:
    try:
        return splitter.choice(item.context, [DELIMITER + choice for choice in item.choices])
    except ValueError as error:
        raise DataError(f"{task.name}: item {item.id}: {error}") from error


def _key(task: Task, item: Item) -> str:
    return f"{task.name}:{item.id}"
