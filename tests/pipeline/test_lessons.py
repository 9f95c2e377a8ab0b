"""What a training is told of a task's examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import model.preferences
from model.batches import Example
from model.gpt import GPT, IGNORE, GPTConfig
from model.preferences import Pair
from pipeline.lessons import Batching, preferences

PAIR = Pair(Example([1, 2], [IGNORE, 3]), Example([1, 2], [IGNORE, 4]))


def test_what_a_model_prefers_at_first_is_found_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there for the pass over all pairs, and leaves the memory to the training."""
    happened: list[Any] = []

    def log_probs(_model: GPT, pairs: list[Pair], *_: Any) -> list[tuple[float, float]]:
        happened.append(len(pairs))
        return [(0.0, 0.0)] * len(pairs)

    monkeypatch.setattr(GPT, "to", lambda _self, device: happened.append(str(device)))
    monkeypatch.setattr(model.preferences, "reference_log_probs", log_probs)
    start = GPT(GPTConfig(vocab_size=8, context_length=4, n_layers=1, n_heads=1, d_model=8))
    device = torch.device("cuda", 0)
    preferences(
        [PAIR] * 3,
        [PAIR],
        Batching(batch_size=2, rows_at_once=2, seed=0, end_id=0),
        model=start,
        device=device,
        beta=0.1,
    )
    assert happened == ["cuda:0", 3, 1, "cpu"]
