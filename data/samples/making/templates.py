"""Goes in: a template with choices and gaps, and fillers by split. Comes out: a text, chosen at random.

What every kind of sample is made with. Everything at random comes from a `random.Random` that the caller seeds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

SPLITS = ("train", "validation", "test")
SEED = 20250301

Wordings = dict[str, Any]
Row = dict[str, str]


def choose(template: str, random_: random.Random) -> str:
    """The template with one alternative of every [one|other] taken."""
    return re.sub(r"\[([^][|]*\|[^][]*)]", lambda match: random_.choice(match[1].split("|")), template)


def variants(template: str) -> list[str]:
    """Every text that `choose` can make of the template."""
    match = re.search(r"\[([^][|]*\|[^][]*)]", template)
    if not match:
        return [template]
    before, after = template[: match.start()], template[match.end() :]
    return [variant for choice in match[1].split("|") for variant in variants(before + choice + after)]


def fill(template: str, values: dict[str, str]) -> str:
    """The template with its {gaps} filled."""
    return re.sub(r"\{(\w+)}", lambda match: values[match[1]], template)


def articled(text: str) -> str:
    """The text with "an" for "a" before a vowel, which only a filler can bring there."""
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)


def dealt(templates: list[str], random_: random.Random) -> Iterator[str]:
    """The templates in shuffled rounds, for ever: each is used about equally often."""
    while True:
        yield from random_.sample(templates, len(templates))


def words(fillers: str) -> list[str]:
    """A table's fillers: parted by | where there is one, else by white space."""
    return fillers.split("|") if "|" in fillers else fillers.split()


def numbers(split: str) -> list[str]:
    """The numbers from 2 to 199 that belong to a split, told by what is left when they are divided by seven."""
    remainders = {"train": (0, 1, 2, 3, 4), "validation": (5,), "test": (6,)}[split]
    return [str(n) for n in range(2, 200) if n % 7 in remainders]


def filler_pools(fillers: Wordings, split: str) -> dict[str, list[str]]:
    """What may fill each gap in a split."""
    pools = {kind: words(table[split]) for kind, table in fillers.items() if split in table}
    pools |= {kind: pairs(table, split) for kind, table in fillers.items() if "second" in table}
    return {**pools, "number": numbers(split)}


def pairs(table: dict[str, str], split: str) -> list[str]:
    """The pairs of a first and a second word that belong to a split, told by the words' places in their lists."""
    splits = ("validation", "test", *("train",) * 8)
    return [
        f"{first} {second}"
        for i, first in enumerate(table["first"].split())
        for j, second in enumerate(table["second"].split())
        if splits[(i + 3 * j) % 10] == split
    ]


def in_shares(shares: dict[str, float], total: int) -> list[str]:
    """`total` names in which each comes as often as its share says, to within one."""
    names: list[str] = []
    whole, upto = sum(shares.values()), 0.0
    for name, share in shares.items():
        upto += share
        names += [name] * (round(upto / whole * total) - len(names))
    return names
