"""The record every evaluation answers with, so that two models are only ever compared on the same data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.json"


@dataclass(frozen=True)
class Bin:
    """The answers given with about the same confidence."""

    confidence: float
    """Mean of the probabilities of the classes chosen."""
    accuracy: float
    """Share that was right."""
    n: int
    """How many there are."""


@dataclass(frozen=True)
class Figure:
    """One line of the table of applications: a number, how sure it is, and what it costs nothing to reach."""

    name: str
    """The application and the metric: `spam accuracy`."""
    value: float
    """What the model reached."""
    n: int
    """How many items it was measured on."""
    low: float
    """The lower end of its 95 % interval."""
    high: float
    """The upper end."""
    baseline: float | None
    """What the baseline reached on the same items; None where there is none."""
    baseline_name: str
    """What the baseline does: `always the commonest class`; empty where there is none."""
    higher_is_better: bool = True
    """Which way it points."""
    data: str = ""
    """Digest of the items; figures of other items are not compared. Empty where nothing was given to the model."""

    @property
    def beats_baseline(self) -> bool:
        """Whether the whole interval lies on the better side of the baseline."""
        if self.baseline is None:
            return False
        return self.low > self.baseline if self.higher_is_better else self.high < self.baseline


@dataclass(frozen=True)
class Figures:
    """What an evaluation found."""

    metrics: dict[str, float]
    """Numbers by name."""
    main: str
    """The metric that decides between two models of the same name."""
    higher_is_better: bool
    """Which way it points."""
    data: str
    """Digest of the data it was measured on; figures of other data are not compared."""
    n: int
    """How many tokens, messages or instructions were scored."""
    samples: list[dict[str, str]] = field(default_factory=list)
    """What a person would like to read."""
    confusion: list[list[int]] | None = None
    """Rows are true classes, columns predicted ones."""
    labels: list[str] = field(default_factory=list)
    """The classes, in the order of the confusion matrix."""
    reliability: list[Bin] = field(default_factory=list)
    """How often a classifier was right, by how sure it was."""
    table: list[Figure] = field(default_factory=list)
    """The figures that have an interval, each beside its baseline."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, for metrics.json."""
        return {
            **self.metrics,
            "main": self.main,
            "higher_is_better": self.higher_is_better,
            "data": self.data,
            "n": self.n,
            "table": [asdict(figure) for figure in self.table],
        }
