"""Goes in: a batch of texts. Comes out: how much of each repeats itself, by Gopher's thirteen rules.

Rae et al. 2021, appendix A.1.1 and table A1. Words are what white space sets apart.

n-grams are found by narrowing: an n-gram that occurs twice in a text begins with an (n-1)-gram that does. Each step
looks only at the places the step before it left, which in prose are few after two or three.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.lines import lines_of, paragraphs_of
from pipeline.cleaning.measures import Rule, share
from pipeline.cleaning.words import Batch, per_batch


@dataclass(frozen=True)
class Repeats:
    """The n-grams that occur more than once in their document. P places, G different n-grams, G in documents' order."""

    n: int
    places_P: NDArray[np.int64]
    """Each occurrence's first word."""
    ngrams_P: NDArray[np.int64]
    """Which n-gram it is, from 0 to G - 1."""
    firsts_G: NDArray[np.int64]
    """The first occurrence of each."""
    counts_G: NDArray[np.int64]


class Repetition:
    """The repeated n-grams of a batch, each length worked out once."""

    def __init__(self, batch: Batch) -> None:
        words = batch.words
        self.documents_W = words.documents_W
        self.n_documents = len(batch.texts)
        self.characters_W1 = np.concatenate(([0], np.cumsum(words.ends_W - words.starts_W)))
        n_words = len(self.documents_W)
        # As many bits of a word's number as leave room for its document and its place.
        bits = 64 - self.n_documents.bit_length() - n_words.bit_length()
        keys = (self.documents_W.astype(np.uint64) << np.uint64(bits)) | (batch.hashes >> np.uint64(64 - bits))
        self._found = {1: _repeats(1, np.arange(n_words), keys)}
        self._word_W = np.full(n_words + 1, -1)  # which repeated word stands at a place, -1 for one that is not
        self._word_W[self._found[1].places_P] = self._found[1].ngrams_P

    def of(self, n: int) -> Repeats:
        """The n-grams of n words that occur more than once in their document."""
        if n not in self._found:
            shorter = self.of(n - 1)
            lasts_P = np.minimum(shorter.places_P + n - 1, len(self._word_W) - 1)
            words_P = self._word_W[lasts_P]
            possible = np.flatnonzero(words_P >= 0)
            places = shorter.places_P[possible]
            inside = self.documents_W[places] == self.documents_W[lasts_P[possible]]
            possible, places = possible[inside], places[inside]
            # An n-gram is its first n-1 words and its last: two numbers below 2**31, exactly.
            keys = shorter.ngrams_P[possible] * (len(self._found[1].firsts_G) + 1) + words_P[possible]
            self._found[n] = _repeats(n, places, keys.astype(np.uint64))
        return self._found[n]

    def characters_of_most_frequent(self, n: int) -> NDArray[np.float64]:
        """Characters of all occurrences of a document's most frequent n-gram, the first of equals; spaces counted."""
        repeats = self.of(n)
        characters_D = np.zeros(self.n_documents)
        if len(repeats.firsts_G):
            documents_G = self.documents_W[repeats.firsts_G]
            starts = np.flatnonzero(np.diff(documents_G, prepend=-1))
            most = np.maximum.reduceat(repeats.counts_G, starts)
            others_G = repeats.counts_G < np.repeat(most, np.diff(np.append(starts, len(documents_G))))
            firsts = np.minimum.reduceat(np.where(others_G, len(self.documents_W), repeats.firsts_G), starts)
            lengths = self.characters_W1[firsts + n] - self.characters_W1[firsts] + n - 1
            characters_D[documents_G[starts]] = lengths * most
        return characters_D

    def characters_repeated(self, n: int) -> NDArray[np.float64]:
        """Characters of the words in n-grams that a document had before, each word once; spaces not counted."""
        repeats = self.of(n)
        later = repeats.places_P[repeats.places_P != repeats.firsts_G[repeats.ngrams_P]]
        covered_W = np.zeros(len(self.documents_W), np.bool_)
        for place in range(n):
            covered_W[later + place] = True
        covered = np.flatnonzero(covered_W)
        characters = self.characters_W1[covered + 1] - self.characters_W1[covered]
        sums = np.bincount(self.documents_W[covered], weights=characters, minlength=self.n_documents)
        return sums.astype(np.float64)


def _repeats(n: int, places: NDArray[np.int64], keys: NDArray[np.uint64]) -> Repeats:
    """What occurs more than once among keys; the keys' order is kept."""
    order, ordered = _sorted(keys)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else order
    counts = np.diff(np.append(starts, len(keys)))
    kept = counts > 1
    places_P = places[order[np.repeat(kept, counts)]]
    counts_G = counts[kept]
    starts_G = np.cumsum(counts_G) - counts_G
    firsts_G = np.minimum.reduceat(places_P, starts_G) if len(counts_G) else counts_G
    return Repeats(n, places_P, np.repeat(np.arange(len(counts_G)), counts_G), firsts_G, counts_G)


def _sorted(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Where the keys stand once they are in order, and the keys in order; equal ones stay in theirs.

    Numbers are sorted four times as fast as places by numbers, so a key takes its place along in its lower bits, if
    there is room for both.
    """
    bits = len(keys).bit_length()
    if not len(keys) or int(keys.max()).bit_length() + bits > 64:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    both = np.sort((keys << np.uint64(bits)) | np.arange(len(keys), dtype=np.uint64))
    return (both & np.uint64((1 << bits) - 1)).astype(np.int64), both >> np.uint64(bits)


@per_batch
def _repetition(batch: Batch) -> Repetition:
    return Repetition(batch)


def _lengths(batch: Batch) -> NDArray[np.float64]:
    return batch.lengths_D.astype(np.float64)


def _top(batch: Batch, n: int) -> NDArray[np.float64]:
    return share(_repetition(batch).characters_of_most_frequent(n), _lengths(batch))


def _repeated(batch: Batch, n: int) -> NDArray[np.float64]:
    return share(_repetition(batch).characters_repeated(n), _lengths(batch))


def _repeated_lines(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    return share(lines.count(lines.repeated), lines.count())


def _repeated_line_characters(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    return share(lines.characters(lines.repeated), _lengths(batch))


def _repeated_paragraphs(batch: Batch) -> NDArray[np.float64]:
    paragraphs = paragraphs_of(batch)
    return share(paragraphs.count(paragraphs.repeated), paragraphs.count())


def _repeated_paragraph_characters(batch: Batch) -> NDArray[np.float64]:
    paragraphs = paragraphs_of(batch)
    return share(paragraphs.characters(paragraphs.repeated), _lengths(batch))


RULES = (
    Rule("repeated-paragraphs", _repeated_paragraphs, "of paragraphs were there before", high=0.3),
    Rule("repeated-paragraph-characters", _repeated_paragraph_characters, "of characters", high=0.2),
    Rule("repeated-lines", _repeated_lines, "of lines were there before", high=0.3),
    Rule("repeated-line-characters", _repeated_line_characters, "of characters", high=0.2),
    *(
        Rule(f"top-{n}-gram", partial(_top, n=n), "of characters", high=high)
        for n, high in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(f"repeated-{n}-grams", partial(_repeated, n=n), "of characters", high=high)
        for n, high in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)
