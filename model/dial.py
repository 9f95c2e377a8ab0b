"""One integer in, a whole model and its training out: shape, context, batch, steps, rates.

What is given is held, and the rest follows from it: with a smaller batch there are more of them in an update, or more
updates, and a deeper or wider model sees more tokens.

What the dial decides, and after whom, for a depth of d blocks:

- 64 · d wide with heads of 64, as nanochat's dial does (Karpathy, 2025): width grows with depth;
- a context of the power of two next to the width, between 256 and 2,048;
- 20 tokens for each weight that multiplies (blocks and head, of the model as it will be), about what Hoffmann et al.
  (2022, "Training Compute-Optimal Large Language Models", approach 1 and 2) find best for a given amount of computing
  C = 6 N D;
- a batch of 0.292 · C^0.3271 tokens (Bi et al., 2024, "DeepSeek LLM", equation 1), in forward passes of at most 16,384;
- Muon's rate as it is, which does not depend on the width; AdamW's from the default run (0.006, and 0.05 for the
  embedding, measured at width 256), falling with the square root of the width, as in nanochat;
- a hundredth of the steps, and ten at least, to warm up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH_PER_LAYER = 64
HEAD_DIM = 64
TOKENS_PER_WEIGHT = 20
PASS_TOKENS = 16_384
MEASURED_WIDTH = 256


@dataclass(frozen=True)
class Shape:
    """What follows from a depth for the model; the names are those of the pretrain section of params.yaml."""

    n_layers: int
    n_heads: int
    d_model: int
    context_length: int


@dataclass(frozen=True)
class Training:
    """What follows from a model for its training; the names are those of the pretrain section of params.yaml."""

    steps: int
    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    embedding_learning_rate: float
    muon_learning_rate: float
    warmup_steps: int
    evaluate_every: int


def shape(depth: int, *, d_model: int = 0) -> Shape:
    """The shape of this depth, around a width where it is given; ValueError below 1."""
    if depth < 1:
        raise ValueError(f"depth is {depth}, but must be at least 1")
    width = d_model or WIDTH_PER_LAYER * depth
    return Shape(
        n_layers=depth,
        n_heads=next(n for n in range(max(1, width // HEAD_DIM), 0, -1) if width % n == 0),
        d_model=width,
        context_length=min(2048, max(256, 1 << round(math.log2(width)))),
    )


def training(
    weights: int, width: int, context: int, *, batch_size: int = 0, gradient_accumulation: int = 0, steps: int = 0
) -> Training:
    """The training of a model with so many weights that multiply, around what is given of it."""
    tokens = TOKENS_PER_WEIGHT * weights
    batch_tokens = 0.292 * (6.0 * weights * tokens) ** 0.3271
    pass_tokens = min(PASS_TOKENS, round(batch_tokens / (gradient_accumulation or 1)))
    batch_size = batch_size or max(1, pass_tokens // context)
    accumulation = gradient_accumulation or max(1, round(batch_tokens / (batch_size * context)))
    steps = steps or max(1, round(tokens / (accumulation * batch_size * context)))
    narrower = math.sqrt(MEASURED_WIDTH / width)
    return Training(
        steps=steps,
        batch_size=batch_size,
        gradient_accumulation=accumulation,
        learning_rate=round(0.006 * narrower, 6),
        embedding_learning_rate=round(0.05 * narrower, 6),
        muon_learning_rate=0.02,
        warmup_steps=min(steps, max(10, steps // 100)),
        evaluate_every=max(1, steps // 20),
    )
