"""Names in, shapes out: the models that the project knows by name.

A preset is a shape and nothing else; the vocabulary of `default` is a placeholder that the tokenizer's replaces.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from model.gpt import GPTConfig

_GPT2: dict[str, Any] = {
    "vocab_size": 50_257,
    "context_length": 1024,
    "norm": "layernorm",
    "positions": "learned",
    "mlp": "gelu",
    "linear_bias": True,
}
_LLAMA32: dict[str, Any] = {
    "vocab_size": 128_256,
    "context_length": 131_072,
    "rope_theta": 500_000.0,
    "rope_scaling": (32.0, 1.0, 4.0, 8192),
    "norm_eps": 1e-5,
}

PRESETS: dict[str, GPTConfig] = {
    # The small CPU run: Llama shape, so that everything made from it loads everywhere.
    "default": GPTConfig(vocab_size=4096, context_length=256, n_layers=3, n_heads=4, d_model=128, tied_head=False),
    # The tutorial's 124M: no bias on query, key and value, head not tied: 163,009,536 parameters.
    "seed-124m": GPTConfig(n_layers=12, n_heads=12, d_model=768, tied_head=False, **_GPT2),
    # The four published GPT-2 sizes (the 345/762/1542M that are printed in places are miscounted).
    "gpt2-124m": GPTConfig(n_layers=12, n_heads=12, d_model=768, qkv_bias=True, **_GPT2),
    "gpt2-355m": GPTConfig(n_layers=24, n_heads=16, d_model=1024, qkv_bias=True, **_GPT2),
    "gpt2-774m": GPTConfig(n_layers=36, n_heads=20, d_model=1280, qkv_bias=True, **_GPT2),
    "gpt2-1558m": GPTConfig(n_layers=48, n_heads=25, d_model=1600, qkv_bias=True, **_GPT2),
    "smollm2-135m": GPTConfig(
        vocab_size=49_152, context_length=8192, n_layers=30, n_heads=9, n_kv_heads=3, d_model=576, d_ff=1536,
        rope_theta=100_000.0,
    ),
    "smollm2-360m": GPTConfig(
        vocab_size=49_152, context_length=8192, n_layers=32, n_heads=15, n_kv_heads=5, d_model=960, d_ff=2560,
        rope_theta=100_000.0,
    ),
    "llama3.2-1b": GPTConfig(n_layers=16, n_heads=32, n_kv_heads=8, d_model=2048, d_ff=8192, **_LLAMA32),
    "qwen2.5-0.5b": GPTConfig(
        vocab_size=151_936, context_length=32_768, n_layers=24, n_heads=14, n_kv_heads=2, d_model=896, d_ff=4864,
        qkv_bias=True, rope_theta=1_000_000.0, norm_eps=1e-6,
    ),
    "qwen3-0.6b": GPTConfig(
        vocab_size=151_936, context_length=40_960, n_layers=28, n_heads=16, n_kv_heads=8, d_model=1024, d_ff=3072,
        head_dim=128, qk_norm=True, rope_theta=1_000_000.0, norm_eps=1e-6,
    ),
}  # fmt: skip


def preset(name: str, **changes: Any) -> GPTConfig:
    """The named shape with `changes` applied; an unknown name raises ValueError and names the nearest known one."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        raise ValueError(f"unknown model preset {name!r}; " + (f"did you mean {near[0]!r}?" if near else _known()))
    return dataclasses.replace(PRESETS[name], **changes)


def _known() -> str:
    return f"known are {', '.join(PRESETS)}"
