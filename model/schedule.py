"""A step's number in, a factor on every learning rate out."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "wsd"]
SCHEDULES = ("cosine", "wsd")


def learning_rate_factor(
    step: int, *, steps: int, warmup_steps: int, schedule: Schedule, decay_fraction: float, final_fraction: float
) -> float:
    """Factor for the 0-based `step`: a straight climb over the warm-up, then down to `final_fraction`.

    "cosine" falls in half a wave from the end of the warm-up (Loshchilov and Hutter, "SGDR"). "wsd" stays at 1 and
    falls in a straight line over the last `decay_fraction` of all steps (Hägele et al., "Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations").
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "cosine":
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        fall = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay_steps = max(1.0, min(decay_fraction * steps, steps - warmup_steps))
        fall = min(1.0, (steps - step) / decay_steps)
    return final_fraction + (1 - final_fraction) * fall
