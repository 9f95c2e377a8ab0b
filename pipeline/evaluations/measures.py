"""What a suite finds: a score for every item, from which a figure with its interval is drawn, or a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluations import bootstrap
from pipeline.evaluations.figures import Figure


@dataclass(frozen=True)
class Measure:
    """One number for each item of a test set; their mean is the figure."""

    name: str
    """The set and the metric: `hellaswag acc_norm`."""
    ids: tuple[str, ...]
    """The items, by which two models' scores are paired."""
    scores: tuple[float, ...]
    """One for each item."""
    data: str
    """Digest of what was asked."""
    baseline: float | None = None
    """What costs nothing to reach, such as guessing; None where there is nothing such."""
    baseline_name: str = ""
    higher_is_better: bool = True

    def figure(self) -> Figure:
        """The mean, with its bootstrap interval."""
        low, high = bootstrap.interval(self.scores)
        value = sum(self.scores) / len(self.scores)
        return Figure(
            self.name, value, len(self.scores), low, high, self.baseline, self.baseline_name, self.higher_is_better
        )
