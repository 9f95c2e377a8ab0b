"""Float8 trains as bfloat16 does, to its own precision, and is refused where no hardware has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import model.hardware
from model.batches import TokenWindows
from model.gpt import GPT, GPTConfig
from model.training import TrainingConfig, TrainingState, train
from tests.model.test_training import TEXT

pytest.importorskip("torchao")
SHAPE = GPTConfig(vocab_size=256, context_length=16, n_layers=2, n_heads=2, d_model=32, tied_head=False)


def trained(precision: Any) -> tuple[TrainingState, list[float]]:
    """The state after ten steps from the same weights, and the losses on the way."""
    torch.manual_seed(0)
    network = GPT(SHAPE)
    config = TrainingConfig(steps=10, learning_rate=1e-2, precision=precision)
    state = TrainingState(network, config, "cpu")
    batches = TokenWindows(TEXT, context_length=16, batch_size=8, seed=0)
    return state, [step.loss for step in train(network, batches, config, state)]


def test_without_the_hardware_it_is_refused() -> None:
    """On a CPU the error says what is needed and what to take instead."""
    with pytest.raises(ValueError, match=r"needs a GPU that multiplies 8-bit floats .*; take auto"):
        TrainingState(GPT(SHAPE), TrainingConfig(steps=1, precision="float8"), "cpu")


def test_it_learns_like_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the products rounded to 8 bits as on a GPU, ten steps end near bfloat16's, and not on the same bits."""
    monkeypatch.setattr(model.hardware, "check_float8", lambda device: None)
    _, rough = trained("float8")
    _, fine = trained("bfloat16")
    assert rough != fine and rough[-1] < rough[0] - 0.5
    assert rough[-1] == pytest.approx(fine[-1], rel=0.02)


def test_only_the_blocks_products_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix of a block is swapped; the head, the embedding and the weights that are kept are torch's own."""
    monkeypatch.setattr(model.hardware, "check_float8", lambda device: None)
    state, _ = trained("float8")
    kinds = {
        name: type(module).__name__ for name, module in state.fast_model.named_modules() if hasattr(module, "weight")
    }
    assert {kind for name, kind in kinds.items() if name.startswith("blocks")} == {"Float8Linear", "RMSNorm"}
    assert kinds["head"] == "Linear" and kinds["token_embedding"] == "Embedding"
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())
    assert [name for name, _ in state.fast_model.named_parameters()] == [n for n, _ in state.model.named_parameters()]
