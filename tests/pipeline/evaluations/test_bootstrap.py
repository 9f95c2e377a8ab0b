"""An interval says how far a figure could be off by chance, and a paired one how sure a difference is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluations import bootstrap
from pipeline.evaluations.bootstrap import Scores, interval, paired

SCORES = st.lists(st.floats(-5, 5), min_size=1, max_size=20)


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution() -> None:
    """Of 400 answers with 320 right, 95 % of resamples lie within 1.96 standard errors of 0.8."""
    low, high = interval([1.0] * 320 + [0.0] * 80, resamples=4000)
    error = (0.8 * 0.2 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.8 - 1.96 * error, 0.8 + 1.96 * error), abs=0.005)


@given(SCORES)
def test_an_interval_holds_the_figure_of_items_that_are_alike_and_lies_between_the_extremes(
    values: list[float],
) -> None:
    """No resample's mean leaves the range of the scores, and the same seed draws the same."""
    low, high = interval(values, resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert interval(values, resamples=50) == (low, high)


def test_a_statistic_may_combine_several_numbers_of_each_item() -> None:
    """Nats and bytes are resampled together: their ratio is exact where every item has the same."""

    def ratio(resamples: Scores) -> Scores:
        return np.asarray(resamples[..., 0].sum(1) / resamples[..., 1].sum(1), np.float64)

    assert interval([[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]], statistic=ratio) == (2.0, 2.0)


@given(SCORES, st.floats(-3, 3))
def test_what_is_hard_for_both_cancels_in_a_paired_difference(values: list[float], gain: float) -> None:
    """A model that is better by the same amount on every item is better by that amount, without any doubt."""
    better = [value + gain for value in values]
    assert paired(better, values, resamples=50) == pytest.approx((gain, gain, gain), abs=1e-9)


def test_scores_of_other_items_are_not_compared() -> None:
    """Two models are compared on the same items or not at all, and no items have no interval."""
    with pytest.raises(ValueError, match="not of the same items"):
        paired([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="nothing to draw from"):
        interval([])
    with pytest.raises(ValueError, match="nothing to draw from"):
        paired([], [])


def test_few_at_a_time_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval does not depend on how many resamples the memory holds at once."""
    at_once = interval([1.0, 2.0, 5.0], resamples=100)
    monkeypatch.setattr(bootstrap, "_NUMBERS_AT_ONCE", 7)
    assert interval([1.0, 2.0, 5.0], resamples=100) == at_once
