"""A model in, its optimizers out: Muon for the blocks' matrices and AdamW for the rest, or AdamW for everything.

Muon (Jordan et al., 2024) makes each matrix's update orthogonal, so that no direction is learned ten times faster than
another; on tinyshakespeare with 1.8M parameters it needed 1.7 to 1.9 times fewer tokens than AdamW for the same loss.
Embeddings, head, norms and biases are not such matrices and stay with AdamW.
Its products run near the processor's peak already: stacking the 28 matrices of a model 256 wide by shape gave the same
bits in the same time (119 ms, 178 GFLOP/s of about 200, one Zen 4 core).

torch's Muon multiplies in bfloat16 always. A processor without the instruction (AVX2 alone) then took 3.6 s for a step
of the default model, of which all else took 0.4 s; there the products are made in float32.
"""

from __future__ import annotations

import math
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
        kind = torch.optim.Muon if in_bfloat16 else Float32Muon
        made["muon"] = kind(
            by_muon, lr=muon_learning_rate, weight_decay=weight_decay, momentum=muon_momentum, adjust_lr_fn="original"
        )
    if groups := [group for group in groups if group["params"]]:
        made["adamw"] = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    for each in made.values():
        for group in each.param_groups:
            group["initial_lr"] = group["lr"]
    return made


class Float32Muon(torch.optim.Muon):
    """torch's Muon with its products in float32, and the same state."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix against its momentum, made orthogonal; `closure` is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(momentum, group["momentum"])
                # A matrix in slices is gathered once. Left to DTensor, which gathers for each of the fifteen products,
                # a step of a small model took 3.6 times as long.
                matrix = whole(ahead)
                update = orthogonalized(matrix, group["ns_coefficients"], group["ns_steps"], group["eps"])
                if matrix is not ahead:
                    update = like(parameter, update)
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalized(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The matrix with singular values near 1, by Newton and Schulz's iteration with Jordan's coefficients."""
    a, b, c = coefficients
    upright = matrix.size(0) > matrix.size(1)
    x = matrix.T if upright else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if upright else x
