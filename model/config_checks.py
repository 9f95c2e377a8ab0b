"""A model's settings in, the same made whole out, or one line that says why no network can have them."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.gpt import GPTConfig

NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("learned", "rope")
MLPS = ("gelu", "swiglu")


def complete(config: GPTConfig) -> None:
    """Decide, in place, what was left open; ValueError for a shape that no network can have."""

    def decide(name: str, value: Any) -> None:
        object.__setattr__(config, name, value)

    for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, but must be at least 1")
    for name, allowed in (("norm", NORMS), ("positions", POSITIONS), ("mlp", MLPS)):
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name} is {getattr(config, name)!r}, but must be one of {', '.join(allowed)}")
    if config.head_dim is None:
        if config.d_model % config.n_heads:
            raise ValueError(
                f"d_model {config.d_model} is not divisible by n_heads {config.n_heads}; change one of them"
            )
        decide("head_dim", config.d_model // config.n_heads)
    if config.n_kv_heads is None:
        decide("n_kv_heads", config.n_heads)
    if config.d_ff is None:
        decide("d_ff", 4 * config.d_model if config.mlp == "gelu" else -(-8 * config.d_model // 192) * 64)
    assert config.head_dim is not None and config.n_kv_heads is not None and config.d_ff is not None
    if config.n_kv_heads < 1 or config.n_heads % config.n_kv_heads:
        raise ValueError(f"n_heads {config.n_heads} is not a multiple of n_kv_heads {config.n_kv_heads}")
    if config.head_dim < 1 or config.d_ff < 1:
        raise ValueError(f"head_dim {config.head_dim} and d_ff {config.d_ff} must be at least 1")
    if config.positions == "rope" and config.head_dim % 2:
        raise ValueError(
            f"head_dim {config.head_dim} is odd, but rotary positions need pairs; change d_model or n_heads"
        )
    if not 0.0 <= config.dropout < 1.0:
        raise ValueError(f"dropout is {config.dropout}, but must be at least 0 and below 1")
    if config.n_classes < 0 or config.n_classes == 1:
        raise ValueError(f"n_classes is {config.n_classes}, but must be 0 (language model) or at least 2")
    if config.rope_scaling is not None:
        decide("rope_scaling", tuple(config.rope_scaling))
        if len(config.rope_scaling) != 4:
            raise ValueError("rope_scaling needs factor, low and high frequency factor, original context length")


def check_names(kind: type[GPTConfig], values: dict[str, Any]) -> None:
    """ValueError for an unknown setting, with the nearest known one, and for settings that are missing."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ValueError(f"unknown model setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        raise ValueError(f"model settings are missing: {', '.join(missing)}")
