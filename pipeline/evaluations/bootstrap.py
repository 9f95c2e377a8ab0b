"""Goes in: one score for each item of a test set. Comes out: how far a figure of them could be off by chance.

Items are drawn with replacement, as often as there are, and the figure is worked out again; of many such figures the
middle 95 % are the interval (the percentile bootstrap of Efron, 1979). It tells of other items of the same kind, and
nothing about another training run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Statistic = Callable[[Scores], Scores]
"""Resamples (R, N) or (R, N, K), of N items of K numbers each, in; one figure for each resample (R,) out."""

LEVEL = 0.95
_NUMBERS_AT_ONCE = 4_000_000


def mean(resamples: Scores) -> Scores:
    """The mean of each resample: (R, N) to (R,)."""
    return np.asarray(resamples.mean(axis=1), np.float64)


def interval(
    values: npt.ArrayLike, *, statistic: Statistic = mean, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The lower and upper end of the 95 % interval of a figure of `values` (N,) or (N, K); ValueError for no items."""
    scores = np.asarray(values, np.float64)
    if not len(scores):
        raise ValueError("no items: there is nothing to draw from")
    figures = np.concatenate([statistic(scores[chosen]) for chosen in _draws(scores, resamples, seed)])
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(
    values_a: npt.ArrayLike,
    values_b: npt.ArrayLike,
    *,
    statistic: Statistic = mean,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """By how much the figure of `values_a` is above that of `values_b`, with the ends of the difference's interval.

    Both answered the same items, so each resample draws the same items for both: what is hard for both cancels out.
    ValueError if they are not scores of as many items.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"scores of shape {a.shape} and {b.shape} are not of the same items")
    if not len(a):
        raise ValueError("no items: there is nothing to draw from")
    gains = np.concatenate([statistic(a[chosen]) - statistic(b[chosen]) for chosen in _draws(a, resamples, seed)])
    low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float((statistic(a[None]) - statistic(b[None]))[0]), float(low), float(high)


def _draws(scores: Scores, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Which items each resample holds (R, N), a few resamples at a time so that the memory has an end."""
    random = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // scores.size)
    for first in range(0, resamples, at_once):
        yield random.integers(len(scores), size=(min(at_once, resamples - first), len(scores)))
