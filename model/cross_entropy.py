"""Hidden states, head and targets in, cross-entropy out, without ever holding the logits of all tokens at once.

The logits of a batch are its largest tensor by far (4,096 tokens × 32,768 words are 512 MB in float32). Here they are
made, used for loss and gradients, and forgotten a chunk at a time; the gradients are ready when the loss is.
Sums run in float32 whatever the inputs' precision: cross-entropy over bf16 sums is wrong in the second decimal.

Shape suffixes: M tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""The target of a position that is not scored (PyTorch's own convention)."""

LOGITS_PER_CHUNK = 1_048_576
"""4 MB in float32, which stays in the processor's cache: 92 ms for 2,048 tokens × 4,096 words at width 256, forward and
backward, against 120 in chunks of four times the size and 77 for the three matrix products alone (one Zen 4 core)."""

LOGITS_PER_GPU_CHUNK = 1 << 26
"""256 MB in float32, of which a GPU without a compiler holds several: products of a thousand rows and more."""

LOGITS_PER_COMPILED_GPU_CHUNK = 1 << 29
"""A compiler leaves bfloat16 alone to be held, 1 GB. Each chunk also copies the gradient of the head once."""

FEWEST_ROWS = 256
"""Of a chunk, however large the vocabulary: each adds to the whole gradient of the head. 1,024 tokens × 32,768 words at
width 384 take 658 ms so, with 64 rows 704; the three products alone 373 (CPU time, one Zen 4 core, a busy machine)."""


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, z_loss: float = 0.0) -> Tensor:
    """Sum over M of -log softmax(hidden · weightᵀ)[target] in nats, a float32 scalar; IGNORE counts nothing.

    While gradients are computed, `z_loss` × (log of the softmax's denominator)² is added for each target: it pulls the
    logits, which the softmax lets drift, towards a denominator of 1 (Chowdhery et al., "PaLM", section 5).
    """
    if hidden_MD.is_cpu and not torch.compiler.is_compiling():
        # In fine-tuning nine targets of ten are ignored. On a GPU the count would have to be waited for.
        kept = (targets_M != IGNORE).nonzero()[:, 0]
        if len(kept) < len(targets_M):
            hidden_MD, targets_M = hidden_MD[kept], targets_M[kept]
    if torch.is_grad_enabled() and (hidden_MD.requires_grad or weight_VD.requires_grad):
        total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_MD, weight_VD, targets_M, z_loss
        )
        return total
    total = torch.zeros((), device=hidden_MD.device)
    for rows, logits_MV, float_MV in _chunks(hidden_MD, weight_VD):
        targets = targets_M[rows]
        kept = targets != IGNORE
        exp_MV = float_MV.copy_(torch.mm(hidden_MD[rows], weight_VD.t(), out=logits_MV))
        log_p_M, _, _ = _exponentiate(exp_MV, targets.where(kept, 0)[:, None])
        total -= log_p_M.where(kept, 0.0).sum()
    return total


def _chunks(hidden_MD: Tensor, weight_VD: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time, and the arrays in which all have their logits, one chunk after the other.

    One is of the inputs' precision, one of float32; for float32 they are the same. An array of 32 MB made anew is
    paged in anew: converting 256 × 32,768 numbers from bfloat16 takes 26 ms so, 3 into one that is there (Zen 3).
    """
    n, size = len(hidden_MD), _rows_at_once(hidden_MD, weight_VD)
    room_MV = hidden_MD.new_empty(min(size, n), len(weight_VD))
    float_MV = None if room_MV.dtype == torch.float32 else torch.empty_like(room_MV, dtype=torch.float32)
    for first in range(0, n, size):
        last = min(n, first + size)
        logits_MV = room_MV[: last - first]
        yield slice(first, last), logits_MV, logits_MV if float_MV is None else float_MV[: last - first]


def _rows_at_once(hidden_MD: Tensor, weight_VD: Tensor) -> int:
    if hidden_MD.is_cpu:
        logits = LOGITS_PER_CHUNK
    else:
        logits = LOGITS_PER_COMPILED_GPU_CHUNK if torch.compiler.is_compiling() else LOGITS_PER_GPU_CHUNK
    return max(FEWEST_ROWS, logits // len(weight_VD))


def _exponentiate(logits_MV: Tensor, targets_M1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put exp(logits - the row's greatest) in the place of logits.

    Returns the targets' log-probabilities and the logs of the denominators, (M,) each, and the rows' sums (M, 1). A
    second array of this size would cost more than the arithmetic: 1,024 tokens × 32,768 words at width 384 take 1.31 s
    so, 1.64 with `log_softmax`, and the three products alone 0.86 (one Zen 3 core, float32).
    """
    best_M1 = logits_MV.amax(-1, keepdim=True)
    logits_MV -= best_M1
    log_p_M1 = logits_MV.gather(1, targets_M1)
    sums_M1 = logits_MV.exp_().sum(-1, keepdim=True)
    log_sums_M1 = sums_M1.log()
    return (log_p_M1 - log_sums_M1)[:, 0], (best_M1 + log_sums_M1)[:, 0], sums_M1


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass, so backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, z_loss: float) -> Tensor:
        in_place = hidden_MD.is_cpu and not torch.compiler.is_compiling()
        compute = _in_place if in_place else _out_of_place
        total, grad_hidden_MD, grad_weight_VD = compute(hidden_MD, weight_VD, targets_M, z_loss)
        ctx.save_for_backward(grad_hidden_MD, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        scale = gradients[0].to(grad_hidden_MD.dtype)
        return grad_hidden_MD * scale, grad_weight_VD * scale, None, None


def _in_place(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients on a CPU, where each new array of this size costs more than the arithmetic on it."""
    grad_hidden_MD, grad_weight_VD = torch.empty_like(hidden_MD), torch.zeros_like(weight_VD)
    total = torch.zeros((), device=hidden_MD.device)
    for rows, logits_MV, float_MV in _chunks(hidden_MD, weight_VD):
        hidden, targets = hidden_MD[rows], targets_M[rows]
        p_MV = float_MV.copy_(torch.mm(hidden, weight_VD.t(), out=logits_MV))
        log_p_M, log_z_M, sums_M1 = _exponentiate(p_MV, targets[:, None])
        p_MV /= sums_M1
        total -= log_p_M.sum()
        # d loss / d logits = softmax - one-hot
        if z_loss:
            total += z_loss * log_z_M.square().sum()
            p_MV *= (1 + 2 * z_loss * log_z_M)[:, None]
        p_MV.scatter_add_(1, targets[:, None], p_MV.new_tensor(-1.0).expand(len(targets), 1))
        grad_logits_MV = logits_MV.copy_(p_MV)
        torch.mm(grad_logits_MV, weight_VD, out=grad_hidden_MD[rows])
        grad_weight_VD.addmm_(grad_logits_MV.t(), hidden)
    return total, grad_hidden_MD, grad_weight_VD


def _out_of_place(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a GPU or a compiler, which makes two passes over the logits of all that stands between the products.

    Nothing is overwritten: of tensors that were, torch 2.11's compiler kept the state before, and gave back zeros.
    """
    grads_hidden, grad_weight_VD = [], torch.zeros_like(weight_VD)
    total = torch.zeros((), device=hidden_MD.device)
    classes = torch.arange(len(weight_VD), device=hidden_MD.device)
    size = _rows_at_once(hidden_MD, weight_VD)
    for hidden, targets in zip(torch.split(hidden_MD, size), torch.split(targets_M, size), strict=True):
        kept_M1 = (targets != IGNORE)[:, None]
        logits_MV = (hidden @ weight_VD.t()).float()
        log_z_M1 = logits_MV.logsumexp(-1, keepdim=True)
        safe_M1 = targets[:, None].where(kept_M1, 0)
        total = total + (log_z_M1 - logits_MV.gather(1, safe_M1) + z_loss * log_z_M1.square()).where(kept_M1, 0.0).sum()
        p_MV = (logits_MV - log_z_M1).exp() * (1 + 2 * z_loss * log_z_M1)
        grad_logits_MV = (p_MV - (classes == safe_M1).float()).where(kept_M1, 0.0).to(hidden.dtype)
        grads_hidden.append(grad_logits_MV @ weight_VD)
        grad_weight_VD = grad_weight_VD.addmm(grad_logits_MV.t(), hidden)
    return total, torch.cat(grads_hidden), grad_weight_VD
