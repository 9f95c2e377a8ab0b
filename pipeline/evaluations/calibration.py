"""Goes in: how sure a classifier was, and whether it was right. Comes out: how far the two are apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.evaluations.figures import Bin

BINS = 10


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
