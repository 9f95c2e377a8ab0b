"""The content of a published config.json in, our configuration out, and back: GPT-2, Llama, Qwen2 and Qwen3.

What would compute otherwise here than in transformers is refused by its key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from model.gpt import GPTConfig

Family = Literal["gpt2", "llama", "qwen2", "qwen3"]


class WeightsMismatch(ValueError):
    """Weights that do not fit the configuration beside them, or a configuration that this model cannot be."""


CLASSES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
}
"""The transformers classes of each family: language model, classifier."""


def family_of(config: GPTConfig) -> Family:
    """The published family with exactly this shape; raises WeightsMismatch where there is none."""
    c = config
    bottom = (c.norm, c.positions, c.mlp)
    if bottom == ("layernorm", "learned", "gelu") and c.n_kv_heads == c.n_heads and c.linear_bias and not c.qk_norm:
        if c.head_dim == c.d_model // c.n_heads:
            return "gpt2"  # without qkv_bias its biases are written as zeros
    elif bottom == ("rmsnorm", "rope", "swiglu"):
        if c.qk_norm and not c.qkv_bias and not c.linear_bias:
            return "qwen3"
        if c.qkv_bias and not c.linear_bias and not c.qk_norm and c.head_dim == c.d_model // c.n_heads:
            return "qwen2"
        if not c.qkv_bias and not c.linear_bias and not c.qk_norm:
            return "llama"
    raise WeightsMismatch(
        f"no Hugging Face family has {c.norm}, {c.positions} positions and {c.mlp} with qkv_bias {c.qkv_bias}, "
        f"linear_bias {c.linear_bias}, qk_norm {c.qk_norm}: use GPT-2's or Llama's shape to export"
    )


def config_from_huggingface(config_dict: dict[str, Any]) -> GPTConfig:
    """Our configuration from the content of a config.json; raises WeightsMismatch for what this model cannot be."""
    c = config_dict
    _check_values(c)
    family = c.get("model_type")
    if c.get("quantization_config"):
        raise WeightsMismatch("config.json: quantization_config is not supported; take the model as it was before")
    try:
        if family == "gpt2":
            return _gpt2_config(c)
        if family in ("llama", "qwen2", "qwen3"):
            return _llama_config(c, family)
    except KeyError as error:
        raise WeightsMismatch(f"config.json has no {error.args[0]!r}") from error
    except WeightsMismatch:
        raise
    except ValueError as error:  # a shape that no network can have
        raise WeightsMismatch(f"config.json: {error}") from error
    raise WeightsMismatch(f"config.json: model_type {family!r} is not one of {', '.join(CLASSES)}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30


VALUES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "a whole number from 1 to 2,147,483,647",
        _is_whole,
        (
            *("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"),
            *("max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size"),
            *("intermediate_size", "original_max_position_embeddings"),
        ),
    ),
    (
        "a whole number from 1 to 2,147,483,647, or null",
        lambda value: value is None or _is_whole(value),
        ("num_key_value_heads", "head_dim", "n_inner", "num_labels"),
    ),
    ("a number of at least 0", _is_number, ("rms_norm_eps", "layer_norm_epsilon")),
    (
        "a number of at least 0, or null",
        lambda value: value is None or _is_number(value),
        ("attention_dropout", "resid_pdrop"),
    ),
    (
        "a number above 0",
        lambda value: _is_number(value) and value > 0,
        ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    ),
    (
        "true or false",
        lambda value: isinstance(value, bool),
        (
            *("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"),
            *("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
        ),
    ),
    (
        "an object or null",
        lambda value: value is None or isinstance(value, dict),
        ("rope_parameters", "rope_scaling", "id2label", "quantization_config"),
    ),
    (
        "a list of names or null",
        lambda value: value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)),
        ("architectures",),
    ),
)
"""What is read of config.json: what a value must be, in words and as a test, and the keys for which that holds."""


def _check_values(c: dict[str, Any], at: str = "") -> None:
    """WeightsMismatch for a key whose value is of another kind than the key means."""
    for kind, fits, names in VALUES:
        for name in names:
            if name in c and not fits(c[name]):
                raise WeightsMismatch(f"config.json: {at}{name} is {json.dumps(c[name])[:40]}, but must be {kind}")
    for name in ("rope_scaling", "rope_parameters"):
        if c.get(name):
            _check_values(c[name], f"{name}.")


def config_to_huggingface(config: GPTConfig, end_id: int | None) -> dict[str, Any]:
    """The content of config.json; `end_id` begins and ends a text, and is padding for a classifier."""
    family = family_of(config)
    causal, classifier = CLASSES[family]
    common: dict[str, Any] = {
        "architectures": [classifier if config.n_classes else causal],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id if config.n_classes else None,
        "tie_word_embeddings": config.tied_head and not config.n_classes,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    if config.n_classes:
        common["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.n_classes)}
        common["label2id"] = {f"LABEL_{i}": i for i in range(config.n_classes)}
    if family == "gpt2":
        return common | {
            "n_positions": config.context_length,
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.d_ff,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            "attn_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
        }
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        rope = {"rope_type": "llama3", **dict(zip(names, config.rope_scaling, strict=True))}
    llama = common | {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # Both spellings: transformers 5 reads rope_parameters, older readers and llama.cpp the two others.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "attention_dropout": config.dropout,
        "attention_bias": False,
    }
    if family == "llama":
        llama["mlp_bias"] = False
    return llama


def _gpt2_config(c: dict[str, Any]) -> GPTConfig:
    if c.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise WeightsMismatch(f"config.json: activation_function {c['activation_function']!r} is not tanh-GELU")
    if not c.get("scale_attn_weights", True):
        raise WeightsMismatch("config.json: scale_attn_weights is false, but attention here divides by √head_dim")
    if c.get("scale_attn_by_inverse_layer_idx"):
        raise WeightsMismatch("config.json: scale_attn_by_inverse_layer_idx is not supported")
    return GPTConfig(
        vocab_size=c["vocab_size"],
        context_length=c["n_positions"],
        n_layers=c["n_layer"],
        n_heads=c["n_head"],
        d_model=c["n_embd"],
        d_ff=c.get("n_inner") or 4 * c["n_embd"],
        norm="layernorm",
        positions="learned",
        mlp="gelu",
        qkv_bias=True,
        linear_bias=True,
        tied_head=c.get("tie_word_embeddings", True) or _n_classes(c) > 0,
        dropout=c.get("resid_pdrop") or 0.0,
        norm_eps=c.get("layer_norm_epsilon", 1e-5),
        n_classes=_n_classes(c),
    )


def _llama_config(c: dict[str, Any], family: str) -> GPTConfig:
    if c.get("attention_bias") or c.get("mlp_bias"):
        raise WeightsMismatch("config.json: attention_bias and mlp_bias are not supported in this family")
    if c.get("use_sliding_window"):
        raise WeightsMismatch("config.json: use_sliding_window is not supported")
    if c.get("hidden_act", "silu") != "silu":
        raise WeightsMismatch(f"config.json: hidden_act {c['hidden_act']!r} is not silu")
    # As transformers 5.23 reads them: the older key goes first, and a base beside either only where it has none.
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise WeightsMismatch(f"config.json: rope_type {kind!r} is not one of default, llama3")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, original = (rope[name] if kind == "llama3" else 0 for name in names)
    return GPTConfig(
        vocab_size=c["vocab_size"],
        context_length=c["max_position_embeddings"],
        n_layers=c["num_hidden_layers"],
        n_heads=c["num_attention_heads"],
        n_kv_heads=c.get("num_key_value_heads") or c["num_attention_heads"],
        d_model=c["hidden_size"],
        d_ff=c["intermediate_size"],
        head_dim=c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied_head=c.get("tie_word_embeddings", False) or _n_classes(c) > 0,
        dropout=c.get("attention_dropout") or 0.0,
        rope_theta=rope.get("rope_theta", c.get("rope_theta", 10_000.0)),
        rope_scaling=(factor, low, high, int(original)) if kind == "llama3" else None,
        norm_eps=c["rms_norm_eps"],
        n_classes=_n_classes(c),
    )


def _n_classes(c: dict[str, Any]) -> int:
    if not (c.get("architectures") or [""])[0].endswith("ForSequenceClassification"):
        return 0
    return len(c["id2label"]) if c.get("id2label") else c.get("num_labels") or 2
