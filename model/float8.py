"""A network in bfloat16 in, the same with its blocks' products in 8-bit floats out, for GPUs that multiply those.

torchao does it: before each product both matrices are scaled, each as a whole, to what 8 bits hold (Micikevicius et
al., "FP8 Formats for Deep Learning", 2022). Embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

ADA = (8, 9)
"""The first compute capability with such products."""
SIDES = 16
"""The hardware's products want sides that are multiples of this."""


def check_float8(device: torch.device) -> None:
    """ValueError where the device has no 8-bit products, or torchao is missing."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < ADA:
        raise ValueError(
            "precision float8 needs a GPU that multiplies 8-bit floats (NVIDIA Ada, Hopper or later); take auto"
        )
    if find_spec("torchao") is None:
        raise ValueError("precision float8 needs a package; pip install 'homegrown[float8]'")


def multiply_in_float8(blocks: nn.Module, *, emulate: bool = False) -> None:
    """Swap the linear layers, in place, for such as multiply in float8; parameters keep their names and order.

    `emulate` rounds the same way and multiplies in the weights' own precision: what a test can do on any machine.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def fits(layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.Linear) and layer.in_features % SIDES == layer.out_features % SIDES == 0

    convert_to_float8_training(blocks, module_filter_fn=fits, config=Float8LinearConfig(emulate=emulate))
