"""The losses and gradients of the last steps in, a verdict on the next out: is it a spike?

A batch of garbled text can throw a model back by thousands of steps. OLMo-core (its SkipStepOptimizer) skips a step
whose loss or gradient lies more than six standard deviations above the mean of the last 128. Here it is the median and
the median absolute deviation instead, which a few spikes cannot move.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

REMEMBERED = 128
"""Steps that are looked back on."""
NEEDED = 32
"""Ordinary steps among them before a verdict is given."""
SMALLEST_DEVIATION = 0.02
"""Of the median: where nothing varies, a step that differs in the third digit is no spike."""

Remembered = tuple[float, float, bool]


class SpikeWatch:
    """What the last steps were like: loss, gradient norm, and whether the step was taken for a spike."""

    def __init__(self, threshold: float, most_spikes: int) -> None:
        """A spike lies more than `threshold` deviations above the median; 0 finds none.

        Of 128 steps in a row at most `most_spikes` are called spikes. Whatever is more frequent is no accident but how
        the data now are: it is taken, and moves the bound.
        """
        self.threshold = threshold
        self.most_spikes = most_spikes
        self.past: deque[Remembered] = deque(maxlen=REMEMBERED)

    def is_spike(self, loss: float, grad_norm: float) -> bool:
        """The verdict on a step with finite figures, which is remembered."""
        if not self.threshold:
            return False
        spike = loss > self.bound(0) or grad_norm > self.bound(1)
        if sum(was_spike for *_, was_spike in self.past) >= self.most_spikes:
            spike = False
        self.past.append((loss, grad_norm, spike))
        return spike

    def bound(self, figure: int) -> float:
        """The highest ordinary loss (0) or gradient norm (1); infinite while too little is known."""
        values = [entry[figure] for entry in self.past if not entry[2]]
        if len(values) < NEEDED:
            return math.inf
        middle = median(values)
        # 1.4826 makes the median absolute deviation of a normal distribution its standard deviation.
        deviation = 1.4826 * median(abs(value - middle) for value in values)
        return float(middle + self.threshold * max(deviation, SMALLEST_DEVIATION * abs(middle)))
