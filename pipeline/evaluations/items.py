"""Goes in: a file of a published test set. Comes out: its questions in one form, and the lines that are none.

An item's context, choices and metrics are those of EleutherAI's lm-evaluation-harness 0.4, so that figures can be
compared with what others publish. Each test set has its file beside this one, which knows its forms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.digests import digest_of
from pipeline.errors import DataError, machine_errors

Record = dict[str, Any]
Parts = tuple[str, Sequence[str], int]
"""Context, choices, and which of them is right."""
Ask = Callable[[], Parts]


class NotAnItem(Exception):
    """This record cannot be asked; the message says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question, what may follow it, and which of that is right."""

    id: str
    """Its line in its file."""
    context: str
    """The text before the choices; nothing where whole sentences are compared."""
    choices: tuple[str, ...]
    """Two at least; a space stands between the context and each."""
    gold: int
    """The right one."""


@dataclass(frozen=True)
class Task:
    """The items of one file, and what is worked out of them."""

    name: str
    """As the harness calls it, where it knows the set."""
    metrics: tuple[str, ...]
    """Of acc, acc_norm (by the choices' characters) and acc_bytes (by their bytes)."""
    items: list[Item]
    rejected: dict[str, str] = field(default_factory=dict)
    """Line → why it is no item."""

    @property
    def digest(self) -> str:
        """Of every item that is asked."""
        return digest_of([[i.id, i.context, i.choices, i.gold] for i in self.items])

    def first(self, limit: int | None) -> Task:
        """The same with its first items only."""
        return self if limit is None else Task(self.name, self.metrics, self.items[:limit], self.rejected)


def lines(path: Path) -> list[bytes]:
    """The lines of a file; DataError if it has none."""
    with machine_errors("evaluate", path):
        found = path.read_bytes().split(b"\n")
    if found and not found[-1]:
        found.pop()
    if not found:
        raise DataError(f"evaluate: {path} is empty")
    return found


def first_record(path: Path) -> Record:
    """The first line as a JSON object; an empty one where it is none."""
    try:
        record = json.loads(lines(path)[0])
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_json_lines(path: Path, name: str, metrics: tuple[str, ...], item_of: Callable[[Record], Parts]) -> Task:
    """The task of a file with a JSON object in each line; `item_of` gives context, choices and which is right."""

    def records() -> Iterator[tuple[str, Ask]]:
        for number, line in enumerate(lines(path), 1):
            yield str(number), partial(_item_of_line, line, item_of)

    return gather(name, metrics, records())


def gather(
    name: str,
    metrics: tuple[str, ...],
    records: Iterator[tuple[str, Ask]],
) -> Task:
    """Ask every record for its item; those that cannot say are counted with the reason, and none is lost."""
    items: list[Item] = []
    rejected: dict[str, str] = {}
    n_records = 0
    for id_, ask in records:
        n_records += 1
        try:
            context, choices, gold = ask()
            _check(context, choices, gold)
            items.append(Item(id_, context, tuple(choices), gold))
        except NotAnItem as error:
            rejected[id_] = str(error)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            missing = f" {error}" if isinstance(error, KeyError) else ""
            rejected[id_] = f"not of this set's form ({type(error).__name__}{missing})"
    assert len(items) + len(rejected) == n_records
    return Task(name, metrics, items, rejected)


def _item_of_line(line: bytes, item_of: Callable[[Record], Parts]) -> Parts:
    return item_of(_json(line))


def _check(context: str, choices: Sequence[str], gold: int) -> None:
    if not isinstance(context, str) or not all(isinstance(choice, str) for choice in choices):
        raise NotAnItem("a text is not a string")
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise NotAnItem("needs two choices at least, none of them empty")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise NotAnItem(f"the right answer is none of the {len(choices)} choices")
    try:
        "".join([context, *choices]).encode()
    except UnicodeEncodeError:
        raise NotAnItem("holds half of a surrogate pair, which is no text") from None


def _json(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise NotAnItem("not JSON") from None
    if not isinstance(record, dict):
        raise NotAnItem("not a JSON object")
    return record
