"""Goes in: batches of texts. Comes out: which of them nearly repeat one another.

MinHash (Broder 1997) with banded locality-sensitive hashing, as FineWeb uses it (Penedo et al. 2024): 112
hashes of the 5-grams of words, in 14 bands of 8. Two texts that share a fraction s of their 5-grams meet in some band
with probability 1 - (1 - s^8)^14: 5 % at s = 0.5, 56 % at 0.7, 77 % at 0.75, 92 % at 0.8. Texts that meet are joined,
and so are those joined to them: a cluster is a connected component.

What is held of a text is the digest of each band, 112 bytes, whatever its length.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.words import Batch, high_bits, mixed, ngram_hashes

BANDS = 14
HASHES_PER_BAND = 8
WORDS_PER_SHINGLE = 5
BYTES_PER_DOCUMENT = 8 * BANDS
_SHINGLES_AT_ONCE = 1 << 16  # a hash of them fits in a core's own cache

# Hash number i orders shingles by a_i · x + b_i modulo 2**32, a_i odd: a permutation of 32-bit numbers, which a
# processor multiplies and compares eight at once. Two shingles that are one in 32 bits would have to be the least of a
# text eight times over to matter. The a_i and b_i are mixed counters, not a generator's draws, so that no version of
# NumPy gives others.
_NUMBERS = mixed(np.arange(1, 2 * BANDS * HASHES_PER_BAND + 1, dtype=np.uint64))
_FACTORS, _TERMS = high_bits(_NUMBERS[::2]) | np.uint32(1), high_bits(_NUMBERS[1::2])


def bands(batch: Batch) -> NDArray[np.uint64]:
    """The digest of each band of each text's signature, of shape (documents, BANDS).

    A text of fewer than five words is one shingle: it meets only those that have the same words.
    """
    hashes_W, bounds = batch.folded_hashes, batch.folded_words.bounds_D1
    shingles_W = np.zeros(len(hashes_W), np.uint64)
    whole = ngram_hashes(hashes_W, WORDS_PER_SHINGLE)
    shingles_W[: len(whole)] = whole
    counts_D = np.diff(bounds)
    inside_W = np.arange(len(hashes_W)) + WORDS_PER_SHINGLE <= np.repeat(bounds[1:], counts_D)
    short = np.flatnonzero((counts_D < WORDS_PER_SHINGLE) & (counts_D > 0))
    for document in short:  # few words, few texts
        first, last = bounds[document], bounds[document + 1]
        shingles_W[first] = ngram_hashes(hashes_W[first:last], int(last - first))[0]
        inside_W[first] = True
    shingles = shingles_W[inside_W]
    counts_D = np.where(counts_D >= WORDS_PER_SHINGLE, counts_D - WORDS_PER_SHINGLE + 1, np.minimum(counts_D, 1))
    signatures = _minima(high_bits(shingles), counts_D).reshape(-1, BANDS, HASHES_PER_BAND)
    digests = np.zeros((len(counts_D), BANDS), np.uint64)
    for place in range(HASHES_PER_BAND):
        digests = mixed(digests + signatures[:, :, place])
    # Nothing to compare: a text without a word is like no other, whatever its signature.
    digests[counts_D == 0] = 0
    return digests


def _minima(shingles: NDArray[np.uint32], counts_D: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The least value of each hash over each text's shingles, of shape (documents, hashes)."""
    signatures = np.full((len(_FACTORS), len(counts_D)), np.iinfo(np.uint32).max, np.uint32)
    filled = np.flatnonzero(counts_D)
    starts = (np.cumsum(counts_D) - counts_D)[filled]
    ends = np.append(starts[1:], len(shingles))
    first = 0
    while first < len(filled):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _SHINGLES_AT_ONCE, "right")))
        own = shingles[starts[first] : ends[last - 1]]
        places = starts[first:last] - starts[first]
        minima = np.empty((len(_FACTORS), last - first), np.uint32)
        ordered = np.empty_like(own)
        for factor, term, least in zip(_FACTORS, _TERMS, minima, strict=True):
            np.multiply(own, factor, out=ordered)
            ordered += term
            np.minimum.reduceat(ordered, places, out=least)
        signatures[:, filled[first:last]] = minima
        first = last
    return signatures.T


def clusters(columns: Iterable[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """For each text, the first text of its cluster: itself, if it is like none before it. Order decides, nothing else.

    `columns` are those of what `bands` gave for all texts: the digests of one band after the other.
    """
    parents = array("q")

    def root(text: int) -> int:
        while parents[text] != text:
            parents[text] = parents[parents[text]]
            text = parents[text]
        return text

    for digests in columns:
        parents = parents or array("q", np.arange(len(digests), dtype=np.int64).tobytes())
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        alike = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
        for one, other in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
            first, second = sorted((root(one), root(other)))
            parents[second] = first
    firsts = np.array(parents, np.int64)
    while (firsts[firsts] != firsts).any():
        firsts = firsts[firsts]
    return firsts
