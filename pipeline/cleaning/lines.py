"""Goes in: a batch of texts. Comes out: where their lines and paragraphs are, and what may be asked of them, as arrays.

Lines of white space alone do not count, here and in all rules; paragraphs are what empty lines set apart.
Shapes as in words.py, and P pieces: lines or paragraphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.words import Batch, per_batch, stretch_hashes

_LINE_FEED = 10


class Pieces:
    """Stretches of characters of a batch, in order; none is empty."""

    def __init__(
        self, batch: Batch, starts_P: NDArray[np.int64], ends_P: NDArray[np.int64], documents_P: NDArray[np.int64]
    ) -> None:
        self.starts_P, self.ends_P, self.documents_P = starts_P, ends_P, documents_P
        # Not the batch itself: see per_batch.
        self.points_C, self._sums_C1, self._n_documents = batch.points_C, batch.running_sums, len(batch.texts)

    def count(self, wanted_P: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """The pieces of each document, or those of them that are wanted."""
        documents = self.documents_P if wanted_P is None else self.documents_P[wanted_P]
        return np.bincount(documents, minlength=self._n_documents).astype(np.float64)

    def characters(self, wanted_P: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The characters of those pieces of each document that are wanted."""
        lengths = (self.ends_P - self.starts_P)[wanted_P]
        sums = np.bincount(self.documents_P[wanted_P], weights=lengths, minlength=self._n_documents)
        return sums.astype(np.float64)

    @cached_property
    def repeated(self) -> NDArray[np.bool_]:
        """Whether each piece stood in its document before."""
        hashes_P = stretch_hashes(self._sums_C1, self.starts_P, self.ends_P)
        order = np.lexsort((hashes_P, self.documents_P))
        again = (np.diff(hashes_P[order]) == 0) & (np.diff(self.documents_P[order]) == 0)
        repeated_P = np.zeros(len(order), np.bool_)
        repeated_P[order[1:][again]] = True
        return repeated_P

    def at_most(self, characters: int) -> NDArray[np.bool_]:
        """Whether each has no more characters, white space at both ends among them."""
        short_P: NDArray[np.bool_] = self.ends_P - self.starts_P <= characters
        return short_P

    def end_with(self, characters: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the very last character is one of these."""
        return np.isin(self.points_C[self.ends_P - 1], _points(characters))


class Lines(Pieces):
    """The lines that hold anything but white space."""

    def __init__(self, batch: Batch) -> None:
        feeds = np.flatnonzero(batch.points_C == _LINE_FEED)
        starts = np.concatenate(([0], feeds[:-1] + 1))
        all_D = np.diff(np.searchsorted(feeds, batch.ends_D), prepend=0)
        self.feeds_D = (all_D - 1).astype(np.float64)
        """Line feeds in each document, those between lines of white space among them."""
        documents = np.repeat(np.arange(len(batch.texts)), all_D)
        words = batch.words
        # No word crosses a line, so those of a line are the ones that start between its ends.
        first_words = np.searchsorted(words.starts_W, starts)
        next_words = np.append(first_words[1:], len(words.starts_W))
        filled = next_words > first_words
        super().__init__(batch, starts[filled], feeds[filled], documents[filled])
        self._first_shown_P = words.starts_W[first_words[filled]]
        self._last_shown_P = words.ends_W[next_words[filled] - 1] - 1

    def begin_with(self, characters: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the first character that is not white space is one of these."""
        return np.isin(self.points_C[self._first_shown_P], _points(characters))

    def end_with_run(self, character: str, length: int) -> NDArray[np.bool_]:
        """Whether so many of these come last, white space apart."""
        ended_P: NDArray[np.bool_] = np.greater_equal(self._last_shown_P - self.starts_P, length - 1)
        for back in range(length):
            ended_P &= self.points_C[np.maximum(self._last_shown_P - back, 0)] == ord(character)
        return ended_P


def _points(characters: Sequence[str]) -> NDArray[np.uint32]:
    return np.asarray([ord(character) for character in characters], np.uint32)


@per_batch
def lines_of(batch: Batch) -> Lines:
    """The lines of a batch, worked out once."""
    return Lines(batch)


@per_batch
def paragraphs_of(batch: Batch) -> Pieces:
    """What two line feeds or more set apart in each text, white space at its ends left out."""
    words, bounds = batch.words, batch.words.bounds_D1
    filled_D = np.flatnonzero(np.diff(bounds))
    first_shown, after_last = words.starts_W[bounds[filled_D]], words.ends_W[bounds[filled_D + 1] - 1]
    feeds = np.flatnonzero(batch.points_C == _LINE_FEED)
    doubled = feeds[:-1][np.diff(feeds) == 1]
    breaks = doubled[np.diff(doubled, prepend=-2) != 1]
    breaks_ends = doubled[np.diff(doubled, append=len(batch.points_C) + 1) != 1] + 2
    # A break before a text's first word, after its last, or from one text into the next parts nothing.
    parting = np.searchsorted(first_shown, breaks) > np.searchsorted(after_last, breaks, "right")
    starts = np.sort(np.concatenate((first_shown, breaks_ends[parting])))
    ends = np.sort(np.concatenate((after_last, breaks[parting])))
    return Pieces(batch, starts, ends, np.searchsorted(batch.ends_D, starts, "right"))
