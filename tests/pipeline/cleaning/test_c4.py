"""Which lines C4 keeps, and which pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.c4 import RULES, kept_lines
from pipeline.cleaning.words import Batch


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("The cat sat down.", "The cat sat down."),
        ('  He said "go away"  ', 'He said "go away"'),
        ("The cat sat down", ""),
        ("And so on and on...", ""),
        ("Too short.", ""),
        ("Please enable JavaScript to go on.", ""),
        ("We use cookies to know you.", ""),
        ("Cats sleep a lot.[12][citation needed]", "Cats sleep a lot."),
        ("one two " + "x" * 1001 + ".", ""),
    ],
)
def test_a_line_is_kept_if_it_is_a_sentence(line: str, kept: str) -> None:
    """It ends in a mark, has three words, and is about neither scripts nor cookies."""
    assert kept_lines(line) == kept


@given(st.text("a .\n[1]", max_size=80))
def test_keeping_lines_twice_changes_nothing_more(text: str) -> None:
    """What is kept once is kept again."""
    once = kept_lines(text)
    assert kept_lines(kept_lines(once)) == kept_lines(once)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("One. Two! Three? Four.\nFive.", []),
        ("One. Two. Three. Four", ["c4-sentences"]),
        ("One. Two! Three? Four. Lorem Ipsum.", ["c4-lorem-ipsum"]),
        ("One. Two! Three? Four. {five}.", ["c4-curly-brackets"]),
    ],
)
def test_pages_are_dropped_by_name(text: str, names: list[str]) -> None:
    """Fewer than five sentences, filler text, or a curly bracket."""
    assert [rule.name for rule in RULES if rule.reasons(Batch([text]))] == names
