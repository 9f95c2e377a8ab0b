"""What a model writes freely is measured for repeats, of itself and of what it learned from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluations import generation
from pipeline.evaluations.generation import distinct, longest_verbatim, verbatim

TOKENS = st.lists(st.integers(0, 3), max_size=30)


def test_distinct_counts_what_is_no_repeat() -> None:
    """Over all texts: of four words three are different, of two pairs both."""
    assert distinct([["a", "b"], ["a", "c"]], 1) == 3 / 4
    assert distinct([["a", "b"], ["a", "c"]], 2) == 1.0
    assert distinct([[]], 1) == 0.0


@given(st.lists(TOKENS, max_size=3), TOKENS, st.integers(1, 6))
def test_an_n_gram_is_verbatim_if_it_stands_in_the_training_tokens(
    texts: list[list[int]], training: list[int], n: int
) -> None:
    """The fast search finds what a plain one does."""
    known = {tuple(training[i : i + n]) for i in range(len(training) - n + 1)}
    expected = [
        (sum(tuple(text[i : i + n]) in known for i in range(len(text) - n + 1)), max(0, len(text) - n + 1))
        for text in texts
    ]
    assert verbatim(texts, np.asarray(training, np.uint16), n) == expected


@given(TOKENS, TOKENS)
def test_the_longest_run_is_found(text: list[int], training: list[int]) -> None:
    """It is shared, and nothing longer is."""
    longest = longest_verbatim([text], np.asarray(training, np.uint16))
    runs = {tuple(text[i : i + longest]) for i in range(len(text) - longest + 1)}
    assert not longest or any(tuple(training[i : i + longest]) in runs for i in range(len(training)))
    longer = {tuple(text[i : i + longest + 1]) for i in range(len(text) - longest)}
    assert not any(tuple(training[i : i + longest + 1]) in longer for i in range(len(training) - longest))


def test_n_grams_across_two_pieces_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training tokens are searched piece by piece, and the pieces overlap."""
    monkeypatch.setattr(generation, "_AT_ONCE", 8)
    assert verbatim([list(range(5, 13))], np.arange(100, dtype=np.uint16), 4) == [(5, 5)]
