"""Goes in: how sure a classifier was, and whether it was right. Comes out: how far the two are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The answers given with about the same confidence."""

    confidence: float
    """Mean of the probabilities of the classes chosen."""
    accuracy: float
    """Share that was right."""
    n: int
    """How many there are."""


def reliability(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> list[Bin]:
    """The bins of equal width that hold anything, from unsure to sure."""
    sure, correct = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    return [
        Bin(float(sure[place == i].mean()), float(correct[place == i].mean()), int((place == i).sum()))
        for i in range(bins)
        if (place == i).any()
    ]


def expected_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error (Guo et al., 2017): 0 if 80 % sure means right 80 % of the time."""
    return sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / sum(each.n for each in bins)
