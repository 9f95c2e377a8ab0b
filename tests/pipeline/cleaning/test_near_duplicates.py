"""Texts that share most of their 5-grams meet; those that share few do not; order decides who is kept."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.near_duplicates import BYTES_PER_DOCUMENT, bands, clusters
from pipeline.cleaning.words import Batch


def page(seed: int, n_words: int = 200) -> list[str]:
    """Words that no other page shares in their order."""
    return [f"w{random.Random(seed).randrange(1 << 30)}-{i}" for i in range(n_words)]


def firsts(texts: list[str], at_once: int = 100) -> list[int]:
    batches = [Batch(texts[start : start + at_once]) for start in range(0, len(texts), at_once)]
    found: list[int] = clusters(np.concatenate([bands(batch) for batch in batches]).T).tolist()
    return found


def test_a_page_with_a_word_changed_is_a_near_duplicate_and_another_page_is_not() -> None:
    """One word of 200 changes five of 196 5-grams; a page of other words shares none."""
    changed = page(1)
    changed[100] = "other"
    assert firsts([" ".join(page(1)), " ".join(page(2)), " ".join(changed)]) == [0, 1, 0]


def test_case_punctuation_and_space_do_not_count() -> None:
    """What reads the same is the same."""
    assert firsts(["The cat sat on the mat, today.", "the CAT sat\non the mat today"]) == [0, 0]


def test_short_texts_meet_only_their_equals() -> None:
    """Of fewer than five words, all must be the same; a text without a word is like no other."""
    assert firsts(["Return self.", "return SELF", "Return it.", "...", "---"]) == [0, 0, 2, 3, 4]


def test_a_chain_is_one_cluster_named_by_its_first() -> None:
    """If A is like B and B like C, all three go with A, whichever order B and C come in."""
    digests = np.zeros((4, 14), np.uint64)
    digests[:, 0] = [7, 8, 9, 8]  # 1 and 3 meet here
    digests[:, 1] = [5, 1, 2, 5]  # 0 and 3 meet here
    assert clusters(digests.T).tolist() == [0, 0, 2, 0]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), min_size=1, max_size=12), st.integers(1, 4)
)
def test_the_batches_do_not_matter(texts: list[str], at_once: int) -> None:
    """A text's digests depend on it alone; equal texts always meet; a first is its own first."""
    assert bands(Batch(texts)).tolist() == [bands(Batch([text])).tolist()[0] for text in texts]
    found = firsts(texts, at_once)
    assert found == firsts(texts)
    assert all(found[found[place]] == found[place] <= place for place in range(len(texts)))
    assert all(found[i] == found[j] for i, t in enumerate(texts) for j, u in enumerate(texts) if t == u and t)


def test_texts_meet_as_often_as_the_formula_says() -> None:
    """Of pairs that share 3/4 of their 5-grams, 1 - (1 - s^8)^14 meet: 77 % at s = 0.75."""
    texts = []
    for seed in range(150):
        one = page(seed, 96 + 4)  # 96 5-grams; changing the end of one leaves 3/4 of the union in common
        other = [*one[: 82 + 4], *page(seed + 10_000, 14)]
        texts += [" ".join(one), " ".join(other)]
    shared = 82 / (96 + 96 - 82)
    expected = 1 - (1 - shared**8) ** 14
    met = sum(place != first for place, first in enumerate(firsts(texts))) / 150
    assert abs(met - expected) < 0.12
    assert BYTES_PER_DOCUMENT == bands(Batch(texts[:1])).nbytes == 112
