"""A model in, the same model with low-rank adapters beside its matrices out, and back: LoRA (Hu et al., 2021).

A matrix W learns W + (alpha / rank) · B·A, of which only A and B move: for a width of 768 and a rank of 16 they hold 24
times fewer numbers. B starts at zero, so that the adapted model begins as the model it was made from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.gpt import GPT
from model.outline import without_numbers

TARGETS = ("query", "key", "value", "output", "gate", "up", "down", "head")
"""The matrices that may be adapted, by their names in model/gpt.py."""


class AdaptedLinear(nn.Linear):
    """x·Wᵀ + b, and beside it (alpha / rank) · (x·Aᵀ)·Bᵀ."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        """Take the matrix of `linear` over; A is drawn as a fresh Linear's matrix would be, from torch's generator."""
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.adapter_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.adapter_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.adapter_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Two thin products instead of one wide one: the sum of the matrices is never made."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.adapter_a), self.adapter_b)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The one matrix that computes the same."""
        return self.weight + self.scale * self.adapter_b @ self.adapter_a


def adapt(model: GPT, *, rank: int, alpha: float, targets: Sequence[str]) -> int:
    """Put adapters beside the matrices named in `targets`, in place; a shape's missing ones (gate) are passed over.

    The number of the adapters' parameters comes back. Raises ValueError for a rank below 1, for an unknown name, where
    nothing is left to adapt, and for the head of a language model, of which the loss needs the matrix itself.
    """
    if rank < 1 or alpha <= 0:
        raise ValueError(f"lora_rank is {rank} and lora_alpha {alpha}, but must be at least 1 and above 0")
    if unknown := [name for name in targets if name not in TARGETS]:
        raise ValueError(f"lora_targets names {unknown[0]!r}, but knows {', '.join(TARGETS)}")
    if "head" in targets and not model.config.n_classes:
        raise ValueError("lora_targets names the head, which is adapted in classifiers only; leave it out")
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in targets and isinstance(child, nn.Linear)
    ]
    if not places:
        raise ValueError("lora_targets names no matrix of this model, so nothing would be learned")
    for parent, name, child in places:
        setattr(parent, name, AdaptedLinear(child, rank, alpha))
    return sum(rank * (child.in_features + child.out_features) for _, _, child in places)


def merged(model: GPT) -> GPT:
    """The model with its adapters added into its matrices: a new one, on the CPU, where it has any, else itself."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    if not adapted:
        return model
    weights = {name: value for name, value in model.state_dict().items() if ".adapter_" not in name}
    weights |= {f"{name}.weight": module.merged_weight() for name, module in adapted.items()}
    with without_numbers():
        plain = GPT(model.config)
    plain.load_state_dict({name: value.detach().cpu() for name, value in weights.items()}, assign=True)
    return plain.train(model.training)
