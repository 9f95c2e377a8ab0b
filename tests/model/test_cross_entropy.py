"""Cross-entropy in chunks: the same loss and gradients as torch's, in any precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import model.cross_entropy
from model.cross_entropy import IGNORE, linear_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_equal_the_plain_ones(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several chunks, with ignored targets, loss and both gradients are those of the whole."""
    monkeypatch.setattr(model.cross_entropy, "LOGITS_PER_CHUNK", 64 * 50)
    monkeypatch.setattr(model.cross_entropy, "FEWEST_ROWS", 64)
    torch.manual_seed(0)
    hidden, weight = torch.randn(200, 16, dtype=dtype), torch.randn(50, 16, dtype=dtype)
    targets = torch.randint(0, 50, (200,))
    targets[::3] = IGNORE
    results = []
    for chunked in (True, False):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = linear_cross_entropy(x, w, targets)
        else:
            loss = functional.cross_entropy((x @ w.t()).float(), targets, reduction="sum")
        (loss / 7).backward()
        results.append((loss.detach(), x.grad, w.grad))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, **tolerance)


def test_the_loss_is_the_same_without_gradients() -> None:
    """Evaluation, which needs no gradients, takes another path to the same number."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 16), torch.randn(50, 16), torch.randint(0, 50, (40,))
    with_gradients = linear_cross_entropy(hidden, weight.requires_grad_(), targets)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), with_gradients.detach())


def test_a_batch_without_targets_has_no_loss_and_no_gradient() -> None:
    """If everything is ignored, the loss is exactly 0 and the gradients are zeros."""
    weight = torch.randn(50, 16, requires_grad=True)
    loss = linear_cross_entropy(torch.randn(4, 16), weight, torch.full((4,), IGNORE))
    loss.backward()
    assert loss.item() == 0.0 and weight.grad is not None and not weight.grad.any()


def test_z_loss_adds_the_square_of_the_log_of_the_denominator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients are those of the plain sum; evaluation, without gradients, leaves it out."""
    monkeypatch.setattr(model.cross_entropy, "LOGITS_PER_CHUNK", 64 * 50)
    monkeypatch.setattr(model.cross_entropy, "FEWEST_ROWS", 64)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(200, 16), torch.randn(50, 16), torch.randint(0, 50, (200,))
    targets[::3] = IGNORE
    results = []
    for chunked in (True, False):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = linear_cross_entropy(x, w, targets, 0.1)
        else:
            logits = x @ w.t()
            squares = logits.logsumexp(-1).square()[targets != IGNORE]
            loss = functional.cross_entropy(logits, targets, reduction="sum") + 0.1 * squares.sum()
        loss.backward()
        results.append((loss.detach(), x.grad, w.grad))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(
            linear_cross_entropy(hidden, weight, targets, 0.1), linear_cross_entropy(hidden, weight, targets)
        )


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_out_of_place_it_is_the_same(z_loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU computes, where nothing is overwritten, gives the CPU's loss and gradients; ignored targets too."""
    monkeypatch.setattr(model.cross_entropy, "LOGITS_PER_CHUNK", 64 * 50)
    monkeypatch.setattr(model.cross_entropy, "FEWEST_ROWS", 64)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(200, 16), torch.randn(50, 16), torch.randint(0, 50, (200,))
    in_place = model.cross_entropy._in_place(hidden, weight, targets, z_loss)
    torch.testing.assert_close(model.cross_entropy._out_of_place(hidden, weight, targets, z_loss), in_place)
    kept = torch.arange(200) % 3 > 0
    total, grad_hidden, grad_weight = model.cross_entropy._in_place(hidden[kept], weight, targets[kept], z_loss)
    expected = total, torch.zeros_like(hidden).index_put((kept,), grad_hidden), grad_weight
    ignoring = model.cross_entropy._out_of_place(hidden, weight, targets.where(kept, IGNORE), z_loss)
    torch.testing.assert_close(ignoring, expected)


def test_compiled_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a compiler, loss and gradients stay: torch 2.11's gave zeros for gradients written in place."""
    monkeypatch.setattr(model.cross_entropy, "LOGITS_PER_CHUNK", 64 * 50)
    monkeypatch.setattr(model.cross_entropy, "FEWEST_ROWS", 64)
    torch.manual_seed(0)
    hidden, weight = torch.randn(200, 16), torch.randn(50, 16)
    targets = torch.randint(0, 50, (200,))
    targets[::3] = IGNORE
    results = []
    for compute in (linear_cross_entropy, torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = compute(x, w, targets)
        (loss / 7).backward()
        with torch.no_grad():
            results.append((loss.detach(), x.grad, w.grad, compute(x, w, targets)))
    torch.testing.assert_close(*results)
