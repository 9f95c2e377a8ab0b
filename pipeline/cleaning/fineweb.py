"""Goes in: a batch of texts. Comes out: the measures that FineWeb adds to Gopher's and C4's, each a rule.

Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale"; limits are those of the
code that made it, datatrove's FineWebQualityFilter. Lines of white space alone do not count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.measures import Rule, numbers, share
from pipeline.cleaning.repetition import repeated_pieces
from pipeline.cleaning.words import Batch

SHORT_LINE_CHARACTERS = 30
# Full stops, question and exclamation marks of the scripts most written on the web.
TERMINAL_PUNCTUATION = (*".?!…", *"。．！？｡", *"।॥", *"۔؟", *"։።၊။៕")


def _lines(batch: Batch) -> NDArray[np.float64]:
    return numbers([len(lines) for lines in batch.lines])


def _ended_lines(batch: Batch) -> NDArray[np.float64]:
    ended = [sum(line.endswith(TERMINAL_PUNCTUATION) for line in lines) for lines in batch.lines]
    return share(numbers(ended), _lines(batch))


def _short_lines(batch: Batch) -> NDArray[np.float64]:
    short = [sum(len(line) <= SHORT_LINE_CHARACTERS for line in lines) for lines in batch.lines]
    return share(numbers(short), _lines(batch))


def _repeated_line_characters(batch: Batch) -> NDArray[np.float64]:
    repeated = [repeated_pieces(lines)[1] for lines in batch.lines]
    line_feeds = [text.count("\n") for text in batch.texts]
    return share(numbers(repeated), batch.lengths_D - numbers(line_feeds))


def _line_feeds(batch: Batch) -> NDArray[np.float64]:
    line_feeds = [text.count("\n") for text in batch.texts]
    return share(numbers(line_feeds), np.diff(batch.words.bounds_D1).astype(np.float64))


RULES = (
    Rule("fineweb-ended-lines", _ended_lines, "of lines end a sentence", low=0.12),
    Rule("fineweb-short-lines", _short_lines, "of lines are short", high=0.67),
    Rule("fineweb-repeated-lines", _repeated_line_characters, "of characters in repeated lines", high=0.01),
    Rule("fineweb-line-feeds", _line_feeds, "line feeds a word", high=0.3),
)
