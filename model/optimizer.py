"""A model in, its optimizers out: Muon for the blocks' matrices and AdamW for the rest, or AdamW for everything.

Muon (Jordan et al., 2024) makes each matrix's update orthogonal, so that no direction is learned ten times faster than
another; on tinyshakespeare with 1.8M parameters it needed 1.7 to 1.9 times fewer tokens than AdamW for the same loss.
Embeddings, head, norms and biases are not such matrices and stay with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from model.gpt import GPT
from model.hardware import choose_precision
from model.parallel import like, whole

Optimizer = Literal["muon", "adamw"]
OPTIMIZERS = ("muon", "adamw")


def make_optimizers(
    model: GPT,
    *,
    optimizer: Optimizer,
    learning_rate: float,
    embedding_learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    muon_momentum: float,
) -> dict[str, torch.optim.Optimizer]:
    """Optimizers by name over the trainable parameters; each group's peak rate stands in its "initial_lr".

    Weight decay is applied to matrices only, and beside Muon only to Muon's. An embedding that is not also the head has
    a rate of its own: a row moves only when its token occurs, and what it holds is not a weight but an activation.
    AdamW runs fused, in one pass over memory.
    """
    by_muon: list[Tensor] = []
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    embedding: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if optimizer == "muon" and parameter.dim() == 2 and name.startswith("blocks."):
            by_muon.append(parameter)
        elif name == "token_embedding.weight" and model.head is not None:
            embedding.append(parameter)
        elif optimizer == "adamw" and parameter.dim() == 2:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    decay = weight_decay if optimizer == "adamw" else 0.0
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": embedding, "weight_decay": decay, "lr": embedding_learning_rate},
    ]
    made: dict[str, torch.optim.Optimizer] = {}
    if by_muon:
        in_bfloat16 = choose_precision("auto", by_muon[0].device) == torch.bfloat16
        kind = Muon if in_bfloat16 else Float32Muon
        made["muon"] = kind(
            by_muon, lr=muon_learning_rate, weight_decay=weight_decay, momentum=muon_momentum, adjust_lr_fn="original"
        )
    if groups := [group for group in groups if group["params"]]:
        made["adamw"] = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    for each in made.values():
        for group in each.param_groups:
            group["initial_lr"] = group["lr"]
    return made


class Muon(torch.optim.Muon):
    """torch's Muon and its state, but with the matrices of one shape stacked, and multiplied together.

    One by one, small matrices do not keep a processor busy. Those of the default model take two Zen 5 cores 5.9 ms for
    12.8, and 72 of 8 × 8, of which the calls alone count, 0.8 for 3.6; at a width of 384 it is 180 for 188.
    """

    products = torch.bfloat16

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix against its momentum, made orthogonal; `closure` is not called."""
        for group in self.param_groups:
            for alike in _stacks([p for p in group["params"] if p.grad is not None]):
                gradients = [parameter.grad for parameter in alike if parameter.grad is not None]
                momenta = [self._momentum(*each) for each in zip(alike, gradients, strict=True)]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                # A matrix in slices is gathered once. Left to DTensor, which gathers for each of the fifteen products,
                # a step of a small model took 3.6 times as long.
                pairs = zip(gradients, momenta, strict=True)
                ahead = [whole(gradient.lerp(momentum, group["momentum"])) for gradient, momentum in pairs]
                matrices = (torch.stack(ahead) if len(ahead) > 1 else ahead[0]).to(self.products)
                updates = orthogonalized(matrices, group["ns_coefficients"], group["ns_steps"], group["eps"]).float()
                rows, columns = matrices.shape[-2:]
                moves = [like(*each) for each in zip(alike, updates.reshape(-1, rows, columns), strict=True)]
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(alike, moves, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))

    def _momentum(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


class Float32Muon(Muon):
    """The same with its products in float32.

    A processor without the instruction for bfloat16 (AVX2 alone) took 3.6 s for a step of the default model, of which
    all else took 0.4 s.
    """

    products = torch.float32


NUMBERS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Of the matrices that are multiplied together: in float32 2 MB, which a processor's cache holds, and 256 MB."""


def _stacks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """The matrices, those of one shape together, as many as are multiplied at once."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        by_shape.setdefault(parameter.shape, []).append(parameter)
    for shape, alike in by_shape.items():
        at_once = max(1, NUMBERS_AT_ONCE.get(alike[0].device.type, NUMBERS_AT_ONCE["cpu"]) // shape.numel())
        for first in range(0, len(alike), at_once):
            yield alike[first : first + at_once]


def orthogonalized(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """One matrix, or many of one shape (N, rows, columns), with singular values near 1.

    By Newton's and Schulz's iteration. The coefficients are Jordan's, and rounding is that of the matrices' precision.
    """
    a, b, c = coefficients
    add_product = torch.addmm if matrices.dim() == 2 else torch.baddbmm
    upright = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if upright else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if upright else x
