"""Goes in: a batch of texts. Comes out: where their words and lines are, and a number for each word, as arrays.

The rules that look at every word work on arrays: a loop of Python over words is twenty times slower. A text is laid out
as UTF-32, so that a character is one element, and texts are joined by a line feed, so that no word crosses them.

Shapes: C characters of the joined batch, D documents, W words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

# Kinds of characters, as bits.
SPACE, ALPHABETIC, ALPHANUMERIC, ALONE = 1, 2, 4, 8
# Above this code point stand only private use, tags and what is not assigned; they count as the last one below it.
_TABLE_SIZE = 0x323B0
# Scripts written without spaces, where every character counts as a word of its own: Thai, Lao, Myanmar, Khmer, kana,
# and the ideographs.
_WITHOUT_SPACES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xF900, 0xFAFF), (0x20000, 0x323AF)),
)
_BASE = 0x9E3779B97F4A7C15  # odd, so that its powers lose no bits modulo 2**64


@dataclass(frozen=True)
class Words:
    """The words of a batch: each one's first character, the one after its last, and which document's it is."""

    starts_W: NDArray[np.int64]
    ends_W: NDArray[np.int64]
    documents_W: NDArray[np.int64]
    bounds_D1: NDArray[np.int64]
    """The words of document d are those from bounds[d] up to bounds[d + 1]."""


class Batch:
    """Texts, and what rules want to know of them; each thing is worked out when it is first asked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        joined = "\n".join(texts) + "\n"
        self.points_C: NDArray[np.uint32] = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        self.lengths_D: NDArray[np.int64] = np.fromiter(map(len, texts), np.int64, len(texts))
        self.ends_D: NDArray[np.int64] = np.cumsum(self.lengths_D + 1)

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """The bits of each character."""
        return np.take(_tables()[0], self.points_C, mode="clip")

    @cached_property
    def words(self) -> Words:
        """What white space sets apart, as `str.split` does."""
        return self._words((self.kinds & SPACE) == 0)

    @cached_property
    def folded_words(self) -> Words:
        """Runs of letters, marks and digits; each character alone in scripts that write no spaces."""
        return self._words((self.kinds & ALPHANUMERIC) != 0, (self.kinds & ALONE) != 0)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """A number for each of `words`: the same for the same characters."""
        return stretch_hashes(self.running_sums, self.words.starts_W, self.words.ends_W)

    @cached_property
    def folded_hashes(self) -> NDArray[np.uint64]:
        """A number for each of `folded_words`: the same whatever the case of the letters."""
        lower_C = np.take(_tables()[1], self.points_C, mode="clip")
        return stretch_hashes(_running_sums(lower_C), self.folded_words.starts_W, self.folded_words.ends_W)

    @cached_property
    def running_sums(self) -> NDArray[np.uint64]:
        """What `stretch_hashes` works from."""
        return _running_sums(self.points_C)

    @cached_property
    def kinds_of_words(self) -> NDArray[np.uint8]:
        """The bits of all characters from each of `words` up to the next."""
        if not len(self.words.starts_W):
            return np.zeros(0, np.uint8)
        return np.bitwise_or.reduceat(self.kinds, self.words.starts_W).astype(np.uint8)

    def any_in_word(self, bit: int) -> NDArray[np.bool_]:
        """Whether each of `words` holds a character of the kind, which is not white space."""
        return (self.kinds_of_words & bit).astype(np.bool_)

    def per_document(self, values_W: NDArray[np.generic]) -> NDArray[np.float64]:
        """The sum of a value of each of `words`, by document."""
        sums_W1 = np.concatenate(([0.0], np.cumsum(values_W, dtype=np.float64)))
        return np.diff(sums_W1[self.words.bounds_D1])

    def _words(self, inside_C: NDArray[np.bool_], alone_C: NDArray[np.bool_] | None = None) -> Words:
        before_C = np.concatenate(([False], inside_C[:-1]))
        starting_C = inside_C & ~before_C
        if alone_C is not None and alone_C.any():
            starting_C |= inside_C & (alone_C | np.concatenate(([False], alone_C[:-1])))
        # A text's last character is a line feed, so a word ends inside the batch: where it stops, or another starts.
        ending_C = before_C & (~inside_C | starting_C)
        starts_W, ends_W = np.flatnonzero(starting_C), np.flatnonzero(ending_C)
        bounds = np.concatenate(([0], np.searchsorted(starts_W, self.ends_D)))
        documents_W = np.repeat(np.arange(len(self.texts)), np.diff(bounds))
        return Words(starts_W, ends_W, documents_W, bounds)


def per_batch(work: Callable[[Batch], T]) -> Callable[[Batch], T]:
    """The function, done once for each batch: rules share what they find in it.

    What it gives must not hold the batch, which would then be kept for ever.
    """
    found: WeakKeyDictionary[Batch, T] = WeakKeyDictionary()

    @wraps(work)
    def remembered(batch: Batch) -> T:
        if batch not in found:
            found[batch] = work(batch)
        return found[batch]

    return remembered


def ngram_hashes(hashes_W: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """A number for the n words from each word on, W - n + 1 of them; n-grams across documents are among them."""
    count = max(0, len(hashes_W) - n + 1)
    total = np.zeros(count, np.uint64)
    for place in range(n):
        total *= np.uint64(_BASE)
        total += hashes_W[place : place + count]
    return mixed(total)


def _running_sums(points_C: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The sum of all characters before each place, and of all of them; each counts by the power of its place."""
    powers, _ = _powers(_power_of_two(len(points_C)))
    characters_C1 = np.zeros(len(points_C) + 1, np.uint64)
    characters_C1[1:] = points_C
    characters_C1[1:] += np.uint64(1)
    characters_C1[1:] *= powers[: len(points_C)]
    return np.cumsum(characters_C1)


def stretch_hashes(
    sums_C1: NDArray[np.uint64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A number for each stretch of characters: a polynomial in them, modulo 2**64, with its bits mixed.

    What the sum grows by from its first character to its last, divided by the power of the first's place, is the same
    wherever the stretch stands: one pass over the characters, whatever is cut from them.
    """
    _, inverses = _powers(_power_of_two(len(sums_C1) - 1))
    return mixed((sums_C1[ends] - sums_C1[starts]) * inverses[starts])


def _power_of_two(characters: int) -> int:
    return 1 << max(19, characters.bit_length())


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers of the base and of its inverse, modulo 2**64."""
    bases = np.uint64(_BASE), np.uint64(pow(_BASE, -1, 1 << 64))
    powers, inverses = (np.multiply.accumulate(np.full(count, base, np.uint64)) for base in bases)
    return powers, inverses


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the answer depends on every bit of the number: the finaliser of SplitMix64 (Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def high_bits(numbers: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The upper half of each."""
    return (numbers >> np.uint64(32)).astype(np.uint32)


@cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """For each code point its kinds, and its lower case where that is one character."""
    kinds = np.zeros(_TABLE_SIZE, np.uint8)
    lower = np.arange(_TABLE_SIZE, dtype=np.uint32)
    for code in range(_TABLE_SIZE - 1):
        character = chr(code)
        if character.isalnum():
            kinds[code] = ALPHANUMERIC | (ALPHABETIC if character.isalpha() else 0)
            if (small := character.lower()) != character and len(small) == 1:
                lower[code] = ord(small)
        elif character.isspace():
            kinds[code] = SPACE
        elif unicodedata.category(character)[0] == "M":
            kinds[code] = ALPHANUMERIC
    for first, last in _WITHOUT_SPACES:
        kinds[first : last + 1] |= np.where(kinds[first : last + 1] & ALPHANUMERIC, ALONE, 0).astype(np.uint8)
    return kinds, lower
