"""Spikes: a step far worse than its predecessors is recognised, and never too many of them."""

from __future__ import annotations

import itertools
import math

import pytest

from model.spikes import NEEDED, REMEMBERED, SpikeWatch


def ordinary(watch: SpikeWatch, steps: int) -> None:
    """Show it steps whose loss goes 2.00, 2.01 … 2.09 and again, with gradients between 0.5 and 0.6."""
    for number in range(steps):
        assert not watch.is_spike(2.0 + number % 10 / 100, 0.5 + number % 10 / 100)


@pytest.mark.parametrize(("loss", "grad_norm", "spike"), [(2.1, 0.6, False), (4.0, 0.6, True), (2.0, 9.0, True)])
def test_a_spike_is_far_above_the_median(loss: float, grad_norm: float, spike: bool) -> None:
    """Loss or gradient may give it away; a little more than ever before is no spike."""
    watch = SpikeWatch(threshold=6, most_spikes=3)
    ordinary(watch, 64)
    assert watch.is_spike(loss, grad_norm) is spike


def test_the_first_steps_are_no_spikes() -> None:
    """Before 32 steps are known, nothing is out of the ordinary."""
    watch = SpikeWatch(threshold=6, most_spikes=3)
    ordinary(watch, NEEDED - 1)
    assert not watch.is_spike(100.0, 100.0)


def test_spikes_do_not_raise_the_bound() -> None:
    """What was taken for a spike is not learned from: the bound stays where it was."""
    watch = SpikeWatch(threshold=6, most_spikes=3)
    ordinary(watch, 64)
    before = watch.bound(0)
    assert watch.is_spike(50.0, 0.5) and watch.bound(0) == before


def test_what_is_frequent_is_no_spike() -> None:
    """After three spikes the fourth bad step is taken, and the bound rises: the data have become so."""
    watch = SpikeWatch(threshold=6, most_spikes=3)
    ordinary(watch, 64)
    assert [watch.is_spike(50.0, 0.5) for _ in range(100)] == [True] * 3 + [False] * 97
    assert watch.bound(0) > 50


def test_never_more_than_the_most_spikes_in_any_128_steps() -> None:
    """Whatever the losses are, at most `most_spikes` of 128 steps in a row are left out."""
    watch = SpikeWatch(threshold=1, most_spikes=4)
    figures = [((7919 * number) % 1000) / (10 if number % 11 else 1) for number in range(2000)]
    verdicts = [watch.is_spike(figure, 1.0) for figure in figures]
    counts = list(itertools.accumulate(verdicts, initial=0))
    assert max(late - early for early, late in zip(counts, counts[REMEMBERED:], strict=False)) <= 4 < sum(verdicts)


def test_threshold_zero_finds_none() -> None:
    """Without a threshold nothing is remembered and nothing is a spike."""
    watch = SpikeWatch(threshold=0, most_spikes=3)
    assert not any(watch.is_spike(10.0**step, math.e) for step in range(100)) and not watch.past
