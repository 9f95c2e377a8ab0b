"""A training's settings in, nothing out, or a ValueError that names the one that would train uphill or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Range = tuple[Callable[[float], bool], str]

LARGEST_RATE = 1e6
"""Weights are about 1 at most and a step moves them by about the rate, so nothing near this trains; far above it their
products overflow."""

RATE: Range = (lambda value: 0 < value <= LARGEST_RATE, f"above 0 and at most {LARGEST_RATE:.0e}")
NOT_NEGATIVE: Range = (lambda value: 0 <= value < math.inf, "at least 0, and finite")
SHARE: Range = (lambda value: 0 <= value <= 1, "between 0 and 1")
SHARE_BELOW_ALL: Range = (lambda value: 0 <= value < 1, "at least 0 and below 1")

RANGES: dict[str, Range] = {
    "learning_rate": RATE,
    "embedding_learning_rate": RATE,
    "muon_learning_rate": RATE,
    "muon_momentum": SHARE_BELOW_ALL,
    "weight_decay": NOT_NEGATIVE,
    "beta1": SHARE_BELOW_ALL,
    "beta2": SHARE_BELOW_ALL,
    "warmup_steps": NOT_NEGATIVE,
    "decay_fraction": SHARE,
    "final_lr_fraction": SHARE,
    "clip_norm": NOT_NEGATIVE,
    "z_loss": NOT_NEGATIVE,
    "ema_decay": SHARE_BELOW_ALL,
    "spike_threshold": NOT_NEGATIVE,
    "patience": NOT_NEGATIVE,
    "evaluation_windows": NOT_NEGATIVE,
}


def require_ranges(settings: Mapping[str, Any]) -> None:
    """Refuse the first setting that lies outside its range; what is None, or not listed here, is not looked at."""
    for name, (allowed, words) in RANGES.items():
        value = settings.get(name)
        if value is not None and not allowed(value):
            raise ValueError(f"{name} is {value}, but must be {words}")
