"""What a training says of its pace is what it does now, not what its first step took."""

from __future__ import annotations

import re

import pytest

from model.gpt import GPT, GPTConfig
from model.parallel import ALONE
from model.training import Step, TrainingConfig, TrainingState
from pipeline import training_pace


def test_the_pace_is_that_of_late_and_the_first_step_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of compiling, then ten steps a second of 500 tokens each, then half as many."""
    now = 0.0
    monkeypatch.setattr(training_pace.time, "monotonic", lambda: now)
    shape = GPTConfig(vocab_size=31, context_length=12, n_layers=1, n_heads=2, d_model=16)
    clock = training_pace.Clock(TrainingState(GPT(shape), TrainingConfig(steps=2000), "cpu"), ALONE)

    def done(step: int, seconds: float) -> None:
        nonlocal now
        now += seconds
        clock.tick(Step(step, 3.0, 1.0, 0.1, 500 * step, False))

    done(1, 60.0)
    assert clock.tokens_per_second == pytest.approx(500 / 60)
    assert clock.seconds_left == pytest.approx(60 * 1999)
    for step in range(2, 402):
        done(step, 0.1)
    assert clock.tokens_per_second == pytest.approx(5000)
    assert clock.seconds_left == pytest.approx(1599 * 0.1)
    assert re.match(r"5,000 tokens/s · .*% of peak · 2:39 left", clock.pace())
    for step in range(402, 602):
        done(step, 0.2)
    assert clock.tokens_per_second == pytest.approx(2500)
    assert clock.seconds_left == pytest.approx(1399 * 80 / 600)
