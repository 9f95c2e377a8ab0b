"""Goes in: a batch of texts. Comes out: where their lines are and with what they begin and end, as arrays.

Lines of white space alone do not count, here and in all rules. Shapes as in
words.py, and L lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.words import Batch, per_batch

_LINE_FEED = 10


class Lines:
    """The lines of a batch that hold anything but white space."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self._points_C, self._n_documents = batch, batch.points_C, len(batch.texts)
        feeds = np.flatnonzero(batch.points_C == _LINE_FEED)
        starts = np.concatenate(([0], feeds[:-1] + 1))
        all_D = np.diff(np.searchsorted(feeds, batch.ends_D), prepend=0)
        self.feeds_D = (all_D - 1).astype(np.float64)
        """Line feeds in each document, those between lines of white space among them."""
        documents = np.repeat(np.arange(self._n_documents), all_D)
        words = batch.words
        # No word crosses a line, so those of a line are the ones that start between its ends.
        first_words = np.searchsorted(words.starts_W, starts)
        next_words = np.append(first_words[1:], len(words.starts_W))
        filled = next_words > first_words
        self.starts_L, self.ends_L, self.documents_L = starts[filled], feeds[filled], documents[filled]
        self._first_shown_L = words.starts_W[first_words[filled]]
        self._last_shown_L = words.ends_W[next_words[filled] - 1] - 1

    def count(self, wanted_L: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """The lines of each document, or those of them that are wanted."""
        documents = self.documents_L if wanted_L is None else self.documents_L[wanted_L]
        return np.bincount(documents, minlength=self._n_documents).astype(np.float64)

    def characters(self, wanted_L: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The characters of those lines of each document that are wanted."""
        lengths = (self.ends_L - self.starts_L)[wanted_L]
        sums = np.bincount(self.documents_L[wanted_L], weights=lengths, minlength=self._n_documents)
        return sums.astype(np.float64)

    @cached_property
    def repeated(self) -> NDArray[np.bool_]:
        """Whether each line stood in its document before."""
        hashes_L = self._batch.hashes_of(self.starts_L, self.ends_L)
        order = np.lexsort((hashes_L, self.documents_L))
        again = np.diff(hashes_L[order]) == 0
        again &= np.diff(self.documents_L[order]) == 0
        repeated_L = np.zeros(len(order), np.bool_)
        repeated_L[order[1:][again]] = True
        return repeated_L

    def at_most(self, characters: int) -> NDArray[np.bool_]:
        """Whether each has no more characters, white space at both ends among them."""
        return np.less_equal(self.ends_L - self.starts_L, characters)

    def begin_with(self, characters: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the first that is not white space is one of these."""
        return np.isin(self._points_C[self._first_shown_L], _points(characters))

    def end_with(self, characters: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the very last is one of these."""
        return np.isin(self._points_C[self.ends_L - 1], _points(characters))

    def end_with_run(self, character: str, length: int) -> NDArray[np.bool_]:
        """Whether so many of these come last, white space apart."""
        ended_L: NDArray[np.bool_] = np.greater_equal(self._last_shown_L - self.starts_L, length - 1)
        for back in range(length):
            ended_L &= self._points_C[np.maximum(self._last_shown_L - back, 0)] == ord(character)
        return ended_L


def _points(characters: Sequence[str]) -> NDArray[np.uint32]:
    return np.asarray([ord(character) for character in characters], np.uint32)


@per_batch
def lines_of(batch: Batch) -> Lines:
    """The lines of a batch, worked out once."""
    return Lines(batch)
