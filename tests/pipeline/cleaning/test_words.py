"""What a batch promises: its words are those of `str.split`, and equal words have equal numbers."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.words import Batch, Words, ngram_hashes

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5)
prose = st.lists(st.text(st.sampled_from("aAéÉß ,.\n_1日本\u0301\u3000"), max_size=30), min_size=1, max_size=5)


def spelled(batch: Batch, words: Words) -> list[list[str]]:
    """The words of each text, as characters."""
    joined = "\n".join(batch.texts) + "\n"
    found: list[list[str]] = [[] for _ in batch.texts]
    for start, end, document in zip(words.starts_W, words.ends_W, words.documents_W, strict=True):
        found[document].append(joined[start:end])
    return found


@given(texts | prose)
def test_words_are_what_white_space_sets_apart(texts: list[str]) -> None:
    """They are those of `str.split`, text by text, whatever the script and the kind of space."""
    assert spelled(Batch(texts), Batch(texts).words) == [text.split() for text in texts]


@given(prose)
def test_folded_words_are_runs_of_letters_and_each_ideograph(texts: list[str]) -> None:
    """Punctuation and the low line part words; an ideograph is a word of its own."""
    expected = [re.findall("[日本]|[aAéÉß1\u0301]+", text) for text in texts]
    assert spelled(Batch(texts), Batch(texts).folded_words) == expected


@given(texts | prose)
def test_words_have_one_number_each(texts: list[str]) -> None:
    """Two words have the same number exactly if they have the same characters."""
    batch = Batch(texts)
    words = [word for own in spelled(batch, batch.words) for word in own]
    numbers = batch.hashes.tolist()
    assert len(set(zip(words, numbers, strict=True))) == len(set(words)) == len(set(numbers))


def test_case_does_not_count_in_folded_words() -> None:
    """ÉTÉ and été are one word, Été! too."""
    assert len(set(Batch(["ÉTÉ été", "Été!"]).folded_hashes.tolist())) == 1


def test_ngrams_are_told_apart_by_order() -> None:
    """The bigrams of "a b a b" are two, and those of one word none."""
    hashes = Batch(["a b a b"]).hashes
    assert [n == m for n, m in zip(ngram_hashes(hashes, 2)[:-1], ngram_hashes(hashes, 2)[1:], strict=True)] == [
        False
    ] * 2
    assert len(set(ngram_hashes(hashes, 2).tolist())) == 2
    assert len(ngram_hashes(hashes[:1], 2)) == 0
