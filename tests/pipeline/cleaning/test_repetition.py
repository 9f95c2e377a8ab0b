"""Gopher's repetition rules give, on arrays, what their plain definition gives, text by text."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.repetition import RULES, Repetition, _sorted
from pipeline.cleaning.words import Batch

# Few words, so that n-grams of every length repeat.
texts = st.lists(st.lists(st.sampled_from(["a", "bb", "c"]), max_size=40).map(" ".join), min_size=1, max_size=4)
NUMBERED = {rule.name: rule for rule in RULES}


def plain_top(text: str, n: int) -> float:
    """Characters of all occurrences of the most frequent n-gram that occurs twice at least."""
    words = text.split()
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts or max(counts.values()) < 2:
        return 0.0
    ngram, count = counts.most_common(1)[0]
    return len(" ".join(ngram)) * count / len(text)


def plain_repeated(text: str, n: int) -> float:
    """Characters of words in an n-gram that was there before, each word once."""
    words = text.split()
    met: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i in range(len(words) - n + 1):
        ngram = tuple(words[i : i + n])
        if ngram in met:
            covered.update(range(i, i + n))
        met.add(ngram)
    return sum(len(words[i]) for i in covered) / len(text) if text else 0.0


def greedy_repeated(text: str, n: int) -> float:
    """The same as datatrove counts it: after a repeated n-gram it goes on n words later."""
    words = text.split()
    met: set[str] = set()
    characters = i = 0
    while i < len(words) - n + 1:
        ngram = "".join(words[i : i + n])
        if ngram in met:
            characters += len(ngram)
            i += n
        else:
            met.add(ngram)
            i += 1
    return characters / len(text) if text else 0.0


@given(texts)
def test_measures_are_those_of_the_plain_definition(texts: list[str]) -> None:
    """The most frequent n-gram for 2 to 4 words, all repeated ones for 5 to 10."""
    batch = Batch(texts)
    for n in (2, 3, 4):
        assert NUMBERED[f"top-{n}-gram"].measure(batch).tolist() == pytest.approx([plain_top(t, n) for t in texts])
    for n in range(5, 11):
        measured = NUMBERED[f"repeated-{n}-grams"].measure(batch).tolist()
        assert measured == pytest.approx([plain_repeated(text, n) for text in texts])


@given(texts)
def test_what_datatrove_counts_is_never_more(texts: list[str]) -> None:
    """Going on after a repeated n-gram leaves words out, so its share is at most ours."""
    batch = Batch(texts)
    for n in range(5, 11):
        ours = NUMBERED[f"repeated-{n}-grams"].measure(batch).tolist()
        assert all(greedy_repeated(text, n) <= own + 1e-9 for text, own in zip(texts, ours, strict=True))


@given(st.lists(st.text("ab\n ", max_size=30), min_size=1, max_size=4))
def test_lines_and_paragraphs_are_counted_after_the_first(texts: list[str]) -> None:
    """A line or a paragraph is repeated if the same was there before."""
    batch = Batch(texts)
    paragraphs = [[p for p in re.split(r"\n{2,}", text.strip()) if p] for text in texts]
    lines = [[line for line in text.split("\n") if line.strip()] for text in texts]
    for name, pieces_D in (("line", lines), ("paragraph", paragraphs)):
        shares = NUMBERED[f"repeated-{name}s"].measure(batch).tolist()
        assert shares == pytest.approx([1 - len(set(own)) / len(own) if own else 0 for own in pieces_D])
        repeated = [len("".join(own)) - len("".join(set(own))) for own in pieces_D]
        characters = [part / max(1, len(text)) for part, text in zip(repeated, texts, strict=True)]
        assert NUMBERED[f"repeated-{name}-characters"].measure(batch).tolist() == pytest.approx(characters)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=40))
def test_keys_come_in_order_with_their_places(numbers: list[int]) -> None:
    """Small keys take their places along, large ones do not: the same either way."""
    keys = np.asarray(numbers, np.uint64)
    order, ordered = _sorted(keys)
    assert ordered.tolist() == sorted(numbers)
    assert order.tolist() == sorted(range(len(numbers)), key=numbers.__getitem__)


def test_ngrams_do_not_reach_into_the_next_text() -> None:
    """Equal texts side by side repeat nothing in themselves."""
    batch = Batch(["a b c d e f", "a b c d e f"])
    assert Repetition(batch).characters_repeated(5).tolist() == [0, 0]


def test_a_repeated_sentence_is_dropped_by_name() -> None:
    """A sentence said over and over breaks the limit on repeated 5-grams."""
    text = "the cat sat on the mat today " * 10
    [reason] = NUMBERED["repeated-5-grams"].reasons(Batch([text])).values()
    assert reason.startswith("repeated-5-grams: 0.6828 of characters")
