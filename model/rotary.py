"""Positions in, an angle for each pair of a head's numbers out, and queries and keys turned by it: RoPE.

After the turn the product of a query and a key depends on how far apart they stand, not on where. Shape
suffixes as in model/gpt.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from model.gpt import GPTConfig


def rotary_frequencies(config: GPTConfig) -> Tensor:
    """Angle per position of each of the C/2 pairs (Su et al., "RoFormer"), with Llama 3's stretching where asked."""
    assert config.head_dim is not None
    exponent = torch.arange(0, config.head_dim, 2, device="cpu", dtype=torch.float32) / config.head_dim
    frequency = 1.0 / config.rope_theta**exponent
    if config.rope_scaling is None:
        return frequency
    factor, low, high, original = config.rope_scaling
    # Waves shorter than original/high are kept, longer than original/low are stretched, between them a blend.
    turns = original * frequency / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequency * kept + frequency / factor * (1 - kept)


def rotary_table(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine for every position, (context_length, C); both halves of a row are alike."""
    angles = torch.outer(torch.arange(config.context_length, device="cpu").float(), rotary_frequencies(config))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (c, c + C/2): the half-split layout of Llama's published weights."""
    low, high = x_BHTC.chunk(2, dim=-1)
    return x_BHTC * cos + torch.cat((-high, low), dim=-1) * sin
