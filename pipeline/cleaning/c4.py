"""Goes in: a text. Comes out: the lines of it that C4 would keep, or the reason to drop it whole.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.2:
lines end in a terminal punctuation mark and have at least three words; a page has at least five sentences. Two habits
of the published code that the paper leaves out are kept: lines about cookies and terms of use go, and so do Wikipedia's
citation marks. The list of offensive words is not here: it drops what minorities write about themselves (Dodge et al.
2021, "Documenting Large Webtext Corpora").
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.measures import Rule, numbers
from pipeline.cleaning.words import Batch

LINES = "c4-lines"
MINIMUM_WORDS_PER_LINE = 3
MAXIMUM_WORD_CHARACTERS = 1000
LINE_ENDS = (".", "?", "!", '"', "'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
# A sentence ends in a mark, perhaps a closing quotation mark or bracket, and white space or the end of the text.
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")


def kept_lines(text: str) -> str:
    """The text without citation marks and without the lines that C4 leaves out, each stripped of white space."""
    lines = (_kept_line(line) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _kept_line(line: str) -> str:
    words = line.split()
    if len(line) > MAXIMUM_WORD_CHARACTERS and max(map(len, words), default=0) > MAXIMUM_WORD_CHARACTERS:
        return ""
    line = line.strip()
    if "[" in line:
        line = _CITATION.sub("", line)
    if not line.endswith(LINE_ENDS) or line.endswith("...") or len(words) < MINIMUM_WORDS_PER_LINE:
        return ""
    small = line.lower()
    if "javascript" in small or any(policy in small for policy in POLICIES):
        return ""
    return line


def _lorem_ipsum(batch: Batch) -> NDArray[np.float64]:
    return numbers(["lorem ipsum" in text.lower() for text in batch.texts])


def _curly_brackets(batch: Batch) -> NDArray[np.float64]:
    return numbers([text.count("{") for text in batch.texts])


def _sentences(batch: Batch) -> NDArray[np.float64]:
    return numbers([len(_SENTENCE_END.findall(text)) for text in batch.texts])


RULES = (
    Rule("c4-lorem-ipsum", _lorem_ipsum, "texts of lorem ipsum", high=0),
    Rule("c4-curly-brackets", _curly_brackets, "curly brackets", high=0),
    Rule("c4-sentences", _sentences, "sentences", low=5),
)
