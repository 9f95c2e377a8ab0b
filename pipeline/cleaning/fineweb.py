"""Goes in: a batch of texts. Comes out: the measures that FineWeb adds to Gopher's and C4's, each a rule.

Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale"; limits are those of the
code that made it, datatrove's FineWebQualityFilter. Lines of white space alone do not count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.lines import lines_of
from pipeline.cleaning.measures import Rule, share
from pipeline.cleaning.words import Batch

SHORT_LINE_CHARACTERS = 30
# Full stops, question and exclamation marks of the scripts most written on the web.
TERMINAL_PUNCTUATION = (*".?!…", *"。．！？｡", *"।॥", *"۔؟", *"։።၊။៕")


def _ended_lines(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    return share(lines.count(lines.end_with(TERMINAL_PUNCTUATION)), lines.count())


def _short_lines(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    return share(lines.count(lines.at_most(SHORT_LINE_CHARACTERS)), lines.count())


def _repeated_line_characters(batch: Batch) -> NDArray[np.float64]:
    lines = lines_of(batch)
    return share(lines.characters(lines.repeated), batch.lengths_D - lines.feeds_D)


def _line_feeds(batch: Batch) -> NDArray[np.float64]:
    return share(lines_of(batch).feeds_D, np.diff(batch.words.bounds_D1).astype(np.float64))


RULES = (
    Rule("fineweb-ended-lines", _ended_lines, "of lines end a sentence", low=0.12),
    Rule("fineweb-short-lines", _short_lines, "of lines are short", high=0.67),
    Rule("fineweb-repeated-lines", _repeated_line_characters, "of characters in repeated lines", high=0.01),
    Rule("fineweb-line-feeds", _line_feeds, "line feeds a word", high=0.3),
)
