"""Dropout leaves the mean as it is, and its gradient is that of what stayed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.dropout import dropout, staying
from model.softmax_attention import QUERIES_AT_ONCE, attend

B, H, K, T, C = 2, 4, 2, 150, 8
PROBABILITY = 0.25


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.9])
def test_as_many_stay_as_should(probability: float) -> None:
    """Of a million elements, the share that is asked for, within five standard deviations, and in every place."""
    stays = staying([1000, 1000], probability).double()
    deviation = (probability * (1 - probability) / 1e6) ** 0.5
    assert abs(stays.mean() - (1 - probability)) < 5 * deviation
    # A number serves four neighbours: their means, apart.
    assert (stays.view(-1, 4).mean(0) - (1 - probability)).abs().max() < 10 * deviation


@pytest.mark.parametrize("probability", [1e-9, 1 - 1e-9])
def test_nearly_never_and_nearly_always(probability: float) -> None:
    """A probability finer than the draws is the nearest they have, short of one."""
    assert staying([1000], probability).double().mean() == pytest.approx(1 - probability, abs=0.01)


def test_elements_stay_or_go_by_themselves() -> None:
    """Neighbours that share a number are not alike."""
    stays = staying([1_000_000], 0.5).double().view(-1, 4)
    assert torch.corrcoef(stays.T).fill_diagonal_(0).abs().max() < 0.01


def test_what_stays_grows() -> None:
    """Each element is zero, or divided by the chance to stay; the same seed drops the same, with any threads."""
    x = torch.randn(7, 13)
    torch.manual_seed(1)
    y = dropout(x, PROBABILITY, True)
    torch.testing.assert_close(y, torch.where(y == 0, 0, x / (1 - PROBABILITY)))
    assert 0 < (y == 0).sum() < y.numel()
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    torch.manual_seed(1)
    again = dropout(x, PROBABILITY, True)
    torch.set_num_threads(threads)
    assert torch.equal(again, y)


def test_without_training_nothing_goes() -> None:
    """Where nothing is trained, and with no probability, the tensor comes back and no number is drawn."""
    x = torch.randn(5)
    before = torch.get_rng_state()
    assert dropout(x, PROBABILITY, False) is x
    assert dropout(x, 0.0, True) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_weights_are_dropped() -> None:
    """Result and gradients are those of plain attention whose weights were dropped by the same draws."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, heads, T, C, requires_grad=True) for heads in (H, K, K))
    torch.manual_seed(2)
    y = attend(q, k, v, None, PROBABILITY)
    torch.manual_seed(2)
    expected = plainly(q, k, v)
    torch.testing.assert_close(y, expected)
    up = torch.randn_like(y)
    for found, wanted in zip(
        torch.autograd.grad(y, (q, k, v), up), torch.autograd.grad(expected, (q, k, v), up), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as a formula, its draws a block of queries at a time."""
    size = QUERIES_AT_ONCE[torch.float32]
    stays = torch.zeros(B, H, T, T)
    for first in range(0, T, size):
        last = min(T, first + size)
        stays[:, :, first:last, :last] = staying([B, H, last - first, last], PROBABILITY)
    scores = q @ k.repeat_interleave(H // K, 1).transpose(2, 3) * C**-0.5
    weights = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    return (weights * stays / (1 - PROBABILITY)) @ v.repeat_interleave(H // K, 1)


def test_compiled_every_place_drops_by_itself() -> None:
    """Where a compiler sees two tensors of one shape, they do not lose the same elements; attention's mean is kept."""

    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        return dropout(x, PROBABILITY, True), dropout(x, PROBABILITY, True)

    first, second = torch.compile(twice, backend="aot_eager", fullgraph=True)(torch.ones(1000))
    assert 0 < (first == 0).sum() < 500 and not torch.equal(first, second)
    q, k, v = (torch.ones(B, heads, T, C) for heads in (H, K, K))
    y = torch.compile(attend, backend="aot_eager", fullgraph=True)(q, k, v, None, PROBABILITY)
    assert abs(float(y.mean()) - 1) < 0.1 and float(y.std()) > 0
