"""Goes in: a batch of texts and the names of rules. Comes out: for each text that a rule would drop, the reason.

Every rule of Gopher, C4 and FineWeb by its name; docs/cleaning.md lists them with their limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pipeline.cleaning import c4, fineweb, gopher, repetition
from pipeline.cleaning.measures import Rule
from pipeline.cleaning.words import Batch

# Two steps of Python's type system: params name rules one by one, and a typo is refused with these names.
QualityRule = Literal[
    "c4-lines",
    "c4-lorem-ipsum",
    "c4-curly-brackets",
    "c4-sentences",
    "gopher-words",
    "gopher-word-length",
    "gopher-hashes",
    "gopher-ellipses",
    "gopher-bullet-lines",
    "gopher-ellipsis-lines",
    "gopher-alphabetic-words",
    "gopher-stop-words",
    "repeated-paragraphs",
    "repeated-paragraph-characters",
    "repeated-lines",
    "repeated-line-characters",
    "top-2-gram",
    "top-3-gram",
    "top-4-gram",
    "repeated-5-grams",
    "repeated-6-grams",
    "repeated-7-grams",
    "repeated-8-grams",
    "repeated-9-grams",
    "repeated-10-grams",
    "fineweb-ended-lines",
    "fineweb-short-lines",
    "fineweb-repeated-lines",
    "fineweb-line-feeds",
]
NAMES: tuple[str, ...] = get_args(QualityRule)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in (*c4.RULES, *gopher.RULES, *repetition.RULES, *fineweb.RULES)}


def reasons_to_drop(batch: Batch, names: Iterable[str]) -> dict[int, str]:
    """The first reason for each text that has one, by its place in the batch; rules in the order of `NAMES`."""
    wanted = set(names)
    reasons: dict[int, str] = {}
    for name, rule in RULES.items():
        if name in wanted:
            reasons = rule.reasons(batch) | reasons
    return reasons
