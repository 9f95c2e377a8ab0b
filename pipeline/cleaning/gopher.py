"""Goes in: a batch of texts. Comes out: Gopher's measures of quality, each a rule with its published limit.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A.1.1. Words are
what white space sets apart; the paper does not say how it finds them. They were made for pages of the web in English.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.lines import lines_of
from pipeline.cleaning.measures import Rule, numbers, share
from pipeline.cleaning.words import ALPHABETIC, ALPHANUMERIC, Batch

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


def _words(batch: Batch) -> NDArray[np.float64]:
    """Words that are more than symbols."""
    return batch.per_document(batch.any_in_word(ALPHANUMERIC))


def _word_length(batch: Batch) -> NDArray[np.float64]:
    real_W = batch.any_in_word(ALPHANUMERIC)
    lengths_W = batch.words.ends_W - batch.words.starts_W
    return share(batch.per_document(lengths_W * real_W), batch.per_document(real_W))


def _all_words(batch: Batch) -> NDArray[np.float64]:
    return np.diff(batch.words.bounds_D1).astype(np.float64)


def _hashes(batch: Batch) -> NDArray[np.float64]:
    return share(numbers([text.count("#") for text in batch.texts]), _all_words(batch))


def _ellipses(batch: Batch) -> NDArray[np.float64]:
    counts = [sum(text.count(mark) for mark in ELLIPSES) for text in batch.texts]
    return share(numbers(counts), _all_words(batch))


def _bullet_lines(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    return share(lines.count(lines.begin_with(BULLETS)), lines.count())


def _ellipsis_lines(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    ended_L = np.logical_or.reduce([lines.end_with_run(mark[0], len(mark)) for mark in ELLIPSES])
    return share(lines.count(ended_L), lines.count())


def _alphabetic_words(batch: Batch) -> NDArray[np.float64]:
    return share(batch.per_document(batch.any_in_word(ALPHABETIC)), _all_words(batch))


def _stop_words(batch: Batch) -> NDArray[np.float64]:
    """How many of the eight stand in a text, as they are written here."""
    met = np.zeros((len(batch.texts), len(STOP_WORDS)), np.bool_)
    for number, stop_word in enumerate(_stop_word_hashes()):
        met[batch.words.documents_W[batch.hashes == stop_word], number] = True
    return numbers(met.sum(1).tolist())


@cache
def _stop_word_hashes() -> NDArray[np.uint64]:
    return Batch([" ".join(STOP_WORDS)]).hashes


RULES = (
    Rule("gopher-words", _words, "words", low=50, high=100_000),
    Rule("gopher-word-length", _word_length, "characters a word", low=3, high=10),
    Rule("gopher-hashes", _hashes, "hash signs a word", high=0.1),
    Rule("gopher-ellipses", _ellipses, "ellipses a word", high=0.1),
    Rule("gopher-bullet-lines", _bullet_lines, "of lines begin with a bullet", high=0.9),
    Rule("gopher-ellipsis-lines", _ellipsis_lines, "of lines end with an ellipsis", high=0.3),
    Rule("gopher-alphabetic-words", _alphabetic_words, "of words hold a letter", low=0.8),
    Rule("gopher-stop-words", _stop_words, "of eight common English words", low=2),
)
