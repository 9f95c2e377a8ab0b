"""FineWeb's rules give what their plain definition gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.fineweb import RULES, TERMINAL_PUNCTUATION
from pipeline.cleaning.words import Batch


def plain(text: str) -> list[float]:
    """The four measures of one text."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return [0.0, 0.0, 0.0, 0.0]
    met: set[str] = set()
    repeated = 0
    for line in lines:
        repeated += len(line) if line in met else 0
        met.add(line)
    return [
        sum(line.endswith(TERMINAL_PUNCTUATION) for line in lines) / len(lines),
        sum(len(line) <= 30 for line in lines) / len(lines),
        repeated / len(text.replace("\n", "")),
        text.count("\n") / len(text.split()),
    ]


@given(st.lists(st.text("a .?。\n", max_size=60).map(lambda t: t if t.strip() else "a"), min_size=1, max_size=4))
def test_measures_are_those_of_the_plain_definition(texts: list[str]) -> None:
    """Lines ended, short lines, repeated lines, line feeds a word."""
    measured = [rule.measure(Batch(texts)).tolist() for rule in RULES]
    assert [list(row) for row in zip(*measured, strict=True)] == [pytest.approx(plain(text)) for text in texts]
