"""Goes in: a batch of texts and a rule. Comes out: for each text, the measure and whether it lies where it should.

A quality rule is a measure of a text and the range that a paper found good; outside it the text is dropped, with the
rule's name and the number as the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from pipeline.cleaning.words import Batch

Measure = Callable[[Batch], NDArray[np.float64]]


@dataclass(frozen=True)
class Rule:
    """A text is kept if `low` ≤ measure ≤ `high`."""

    name: str
    measure: Measure
    unit: str
    low: float = 0.0
    high: float = inf

    def reasons(self, batch: Batch) -> dict[int, str]:
        """Why texts of the batch should be dropped, by their places in it."""
        values_D = self.measure(batch)
        wrong = np.flatnonzero(~((values_D >= self.low) & (values_D <= self.high)))
        return {int(place): self._reason(float(values_D[place])) for place in wrong}

    def _reason(self, value: float) -> str:
        wanted = f"at most {self.high:,g}" if value > self.high else f"at least {self.low:,g}"
        return f"{self.name}: {value:,.4g} {self.unit}, wanted {wanted}"


def share(parts_D: NDArray[np.float64], wholes_D: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parts over wholes; 0 where there is nothing."""
    return np.divide(parts_D, wholes_D, out=np.zeros(len(parts_D)), where=wholes_D > 0)


def numbers(values: list[int]) -> NDArray[np.float64]:
    """A count for each document, as an array."""
    return np.asarray(values, np.float64)
