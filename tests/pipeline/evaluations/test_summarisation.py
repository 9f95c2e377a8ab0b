"""A summary is scored by the words it shares with the expected one."""

from __future__ import annotations

import pytest

from pipeline.evaluations.summarisation import first_sentence, rouge


def test_rouge_is_as_counted_by_hand() -> None:
    """Of "the cat sat" and "the cat ran": two of three words, one of two pairs, a common row of two words."""
    assert rouge(["the cat sat"], ["the cat ran"])[0] == pytest.approx([2 / 3, 1 / 2, 2 / 3])
    assert rouge(["", "so it is"], ["so it is", "so it is"]).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_the_first_sentence_ends_where_a_space_follows_its_mark() -> None:
    """A price or an abbreviation without a space does not end it."""
    assert first_sentence("It costs 3.50 now! Come in. Bye.") == "It costs 3.50 now!"
    assert first_sentence("No mark at all") == "No mark at all"
