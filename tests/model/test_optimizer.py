"""Muon moves every matrix in all its directions alike, in whatever precision the processor multiplies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from model import hardware
from model.gpt import GPT, GPTConfig
from model.optimizer import NUMBERS_AT_ONCE, Float32Muon, Muon, make_optimizers

SETTINGS: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}


def moved(kind: type[torch.optim.Muon], shape: tuple[int, int], steps: int) -> tuple[torch.Tensor, ...]:
    """A matrix before and after steps along random gradients, and its momentum."""
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.randn(shape))
    before = matrix.detach().clone()
    optimizer = kind([matrix], **SETTINGS)
    for _ in range(steps):
        matrix.grad = torch.randn(shape)
        optimizer.step()
    return before, matrix.detach(), optimizer.state[matrix]["momentum_buffer"]


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_in_float32_it_is_torch_s_own_to_bfloat16_s_rounding(shape: tuple[int, int]) -> None:
    """Weights agree with those of torch's Muon, of which the products are rounded; the momentum to the bit."""
    start, ours, momentum = moved(Float32Muon, shape, 5)
    _, theirs, their_momentum = moved(torch.optim.Muon, shape, 5)
    assert torch.equal(momentum, their_momentum)
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm()


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
def test_stacked_it_is_torch_s_own(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of one shape, of others, and one without a gradient, move as torch moves them one by one."""
    monkeypatch.setitem(NUMBERS_AT_ONCE, "cpu", at_once)
    shapes = [(48, 16), (16, 48), (48, 16), (32, 32), (48, 16), (16, 48)]

    def after(kind: type[torch.optim.Muon]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(0)
        matrices = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        optimizer = kind(matrices, **SETTINGS)
        for _ in range(3):
            for matrix in matrices[1:]:
                matrix.grad = torch.randn(matrix.shape)
            optimizer.step()
        return [m.detach() for m in matrices], [optimizer.state[m]["momentum_buffer"] for m in matrices[1:]]

    (ours, momenta), (theirs, their_momenta) = after(Muon), after(torch.optim.Muon)
    assert torch.equal(ours[0], theirs[0])
    assert all(map(torch.equal, momenta, their_momenta))
    assert all(torch.allclose(mine, other, atol=1e-3) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_a_step_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    """Every singular value of an update lies near the rate, times the root of rows by columns where rows are more."""
    matrix = nn.Parameter(torch.zeros(shape))
    optimizer = Float32Muon([matrix], **{**SETTINGS, "lr": 1.0})
    torch.manual_seed(0)
    matrix.grad = torch.randn(shape)
    optimizer.step()
    values = torch.linalg.svdvals(matrix.detach()) / max(1, shape[0] / shape[1]) ** 0.5
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_the_processor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 where it is multiplied, else float32; either goes on from the other's state."""
    model = GPT(GPTConfig(vocab_size=31, context_length=12, n_layers=1, n_heads=2, d_model=16))

    def muon(multiplies: bool) -> torch.optim.Optimizer:
        monkeypatch.setattr(hardware, "_cpu_multiplies_bfloat16", lambda: multiplies)
        rates = {"learning_rate": 0.1, "embedding_learning_rate": 0.1, "muon_learning_rate": 0.1}
        made = make_optimizers(
            model, optimizer="muon", weight_decay=0.1, betas=(0.9, 0.95), muon_momentum=0.95, **rates
        )
        return made["muon"]

    fast, slow = muon(True), muon(False)
    assert type(fast) is Muon
    assert type(slow) is Float32Muon
    model.loss(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)).backward()
    fast.step()
    slow.load_state_dict(fast.state_dict())
    slow.step()
