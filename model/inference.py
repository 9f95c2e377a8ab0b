"""A trained model in, the same model in fewer bytes out: for writing text, where memory's pace is the limit.

Every token written reads every weight once. On a CPU torch's own product of one row with a bfloat16 matrix rearranges
the matrix each time; here the weights lie in oneDNN's order from the start, and query, key and value are one matrix.
Milliseconds for a (3072, 768) matrix and 1 or 8 rows, one busy Zen 5 core, torch 2.13: `linear` in bfloat16 0.62 and
0.76, packed 0.35 and 0.40, int8 0.29 and 0.32.
"""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model.gpt import GPT, Block

Weights = Literal["float32", "bfloat16", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


def for_inference(model: GPT, weights: Weights) -> GPT:
    """A copy of the model that only generates and scores; ValueError where int8 is asked for and the CPU has none.

    float32 is the model as it is. bfloat16 has 8 bits of mantissa, packed on a CPU. int8 keeps each row of a matrix in
    steps of its largest weight / 127, and each token's activations likewise; norms, embedding and attention stay
    bfloat16. Nothing depends on what a row is batched with.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}, but must be one of {', '.join(WEIGHTS)}")
    if weights == "float32":
        return model
    on_cpu = model.token_embedding.weight.is_cpu
    if weights == "int8" and not (on_cpu and _has("onednn", "qlinear_pointwise") and torch.cpu._is_vnni_supported()):
        raise ValueError("int8 weights need a CPU with VNNI instructions; use bfloat16")
    lean = copy.deepcopy(model).eval().requires_grad_(False)
    if not on_cpu or (weights == "bfloat16" and not _packs_bfloat16()):
        return lean.bfloat16()
    kind = PackedLinear if weights == "bfloat16" else QuantizedLinear
    lean.head = kind(lean.head_weight(), None)
    for block in lean.blocks:
        assert isinstance(block, Block)
        attention, mlp = block.attention, block.mlp
        parts = [attention.query, attention.key, attention.value]
        weight = torch.cat(tuple(part.weight for part in parts))
        biased = parts[0].bias is not None
        attention.fused = kind(weight, torch.cat(tuple(part.bias for part in parts)) if biased else None)
        del attention.query, attention.key, attention.value
        for owner, name in ((attention, "output"), (mlp, "gate"), (mlp, "up"), (mlp, "down")):
            linear = getattr(owner, name)
            if linear is not None:
                setattr(owner, name, kind(linear.weight, linear.bias))
    return lean.bfloat16()


class PackedLinear(nn.Module):
    """A bfloat16 matrix in the order in which oneDNN multiplies it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16().contiguous(), 1)
        self._bias = None if bias is None else bias.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), self._weight, self._bias, "none", [], "")
        return y


class QuantizedLinear(nn.Module):
    """An int8 matrix with a step for each row, times activations with a step for each token."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.float()
        self._steps = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight / self._steps[:, None]).round().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = None if bias is None else bias.float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).float()
        steps = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-12) / 127
        # oneDNN is quick with unsigned activations only (with signed ones a hundred times slower), so zero lies at 128.
        whole = (rows / steps).round_().add_(128).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 128, self._weight, self._steps, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        ).mul_(steps)
        if self._bias is not None:
            y += self._bias
        shaped: Tensor = y.to(x.dtype).view(*x.shape[:-1], -1)
        return shaped


def _packs_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 here; with AVX2 alone it refuses, and torch's own slower product must do."""
    if not _has("mkldnn", "_linear_pointwise") or not _has("mkldnn", "_is_mkldnn_bf16_supported"):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has(namespace: str, operation: str) -> bool:
    """Whether this build of torch has one of its less public operations."""
    return hasattr(getattr(torch.ops, namespace), operation)
