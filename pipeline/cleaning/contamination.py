"""Goes in: the texts of evaluations, then batches of documents. Comes out: which documents hold some of them.

A document is contaminated if it has 13 words in a row in common with an evaluation's text (Brown et al. 2020, "Language
Models are Few-Shot Learners", appendix C), whatever their case and the punctuation between them. A text of 8 to 12
words is looked for whole; a shorter one is not looked for, since everybody writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.words import Batch, ngram_hashes

NGRAM_WORDS = 13
FEWEST_WORDS = 8
_TEXTS_AT_ONCE = 4096


class EvaluationTexts:
    """The n-grams of every evaluation set in use, by digest: 8 bytes for each word."""

    def __init__(self) -> None:
        self.sets: list[str] = []
        self.looked_for: dict[str, int] = {}
        self.too_short: dict[str, int] = {}
        self._ngrams: dict[int, list[tuple[NDArray[np.uint64], int]]] = {}
        self._ready: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Take in a set; `name` is what a reason calls it."""
        self._ready = {}
        if name not in self.looked_for:
            self.sets.append(name)
            self.looked_for[name] = self.too_short[name] = 0
        number = self.sets.index(name)
        texts = list(texts)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = Batch(texts[start : start + _TEXTS_AT_ONCE])
            hashes_W, bounds = batch.folded_hashes, batch.folded_words.bounds_D1
            wanted_D = np.minimum(np.diff(bounds), NGRAM_WORDS)  # how many words of each text are looked for in a row
            self.too_short[name] += int((wanted_D < FEWEST_WORDS).sum())
            self.looked_for[name] += int((wanted_D >= FEWEST_WORDS).sum())
            wanted_W, left_W = np.repeat(wanted_D, np.diff(bounds)), np.repeat(bounds[1:], np.diff(bounds))
            left_W = left_W - np.arange(len(hashes_W))  # words of the text from each one on
            for n in np.unique(wanted_D[wanted_D >= FEWEST_WORDS]).tolist():
                own = ngram_hashes(hashes_W, n)
                inside = (wanted_W == n) & (left_W >= n)
                self._ngrams.setdefault(n, []).append((own[inside[: len(own)]], number))

    def digest(self) -> str:
        """One for everything that decides whether a document is contaminated, and with what."""
        found = hashlib.sha256(json.dumps(self.sets).encode())
        for n, (known, sets) in self._sorted().items():
            found.update(n.to_bytes(8, "big") + known.tobytes() + sets.tobytes())
        return found.hexdigest()

    def reasons_to_drop(self, batch: Batch) -> dict[int, str]:
        """ "contaminated: has 13 words in a row of SET" for each text of the batch of which that is true."""
        reasons: dict[int, str] = {}
        words = batch.folded_words
        for n, (known, sets) in self._sorted().items():
            own = ngram_hashes(batch.folded_hashes, n)
            places = np.searchsorted(known, own)
            places[places == len(known)] = 0
            found = np.flatnonzero(known[places] == own)
            whole = words.documents_W[found] == words.documents_W[found + n - 1]
            for place in found[whole].tolist():
                name = self.sets[sets[places[place]]]
                reasons.setdefault(int(words.documents_W[place]), f"contaminated: has {n} words in a row of {name}")
        return reasons

    def _sorted(self) -> dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        if not self._ready:
            for n, parts in sorted(self._ngrams.items(), reverse=True):
                hashes = np.concatenate([part for part, _ in parts])
                sets = np.concatenate([np.full(len(part), number) for part, number in parts])
                known, first = np.unique(hashes, return_index=True)
                self._ready[n] = known, sets[first]
        return self._ready
