"""Goes in: what a suite found for two models. Comes out: by how much one is better, item by item, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.evaluations import bootstrap
from pipeline.evaluations.measures import Measure


@dataclass(frozen=True)
class Difference:
    """A measure of two models on the same items."""

    name: str
    n: int
    value: float
    """The first model's figure."""
    other: float
    """The second's."""
    difference: float
    """The first's less the second's."""
    low: float
    """The lower end of the difference's 95 % interval."""
    high: float
    """The upper end."""
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """better or worse where the interval lies on one side of zero, else no difference seen."""
        if self.low <= 0 <= self.high:
            return "no difference seen"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def compare(ours: Sequence[Measure], theirs: Sequence[Measure]) -> list[Difference]:
    """Every measure that both have, paired by item: what is hard for both does not count as chance.

    DataError if they were not asked the same.
    """
    others = {measure.name: measure for measure in theirs}
    found = []
    for measure in ours:
        other = others.get(measure.name)
        if other is None:
            continue
        if other.data != measure.data or other.ids != measure.ids:
            raise DataError(f"evaluate: {measure.name}: the two models were not asked the same; run both again")
        difference, low, high = bootstrap.paired(measure.scores, other.scores)
        value, theirs_value = (sum(m.scores) / len(m.scores) for m in (measure, other))
        found.append(
            Difference(
                measure.name, len(measure.ids), value, theirs_value, difference, low, high, measure.higher_is_better
            )
        )
    return found
