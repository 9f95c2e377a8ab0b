"""Our weights in, Hugging Face's out, and back: name maps for GPT-2, Llama, Qwen2 and Qwen3.

The rotary layout is Llama's published one (half-split), so no row is permuted. GPT-2's published weights are kept as
inputs × outputs (its Conv1D), and query, key and value in one matrix: those are transposed and split here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from model.gpt import GPT, GPTConfig
from model.outline import without_numbers

Family = Literal["gpt2", "llama", "qwen2", "qwen3"]
StateDict = dict[str, Tensor]


class WeightsMismatch(ValueError):
    """Weights that do not fit the configuration beside them, or a configuration that this model cannot be."""


LLAMA_NAMES = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "blocks.#.attention_norm.weight": "model.layers.#.input_layernorm.weight",
    "blocks.#.attention.query.weight": "model.layers.#.self_attn.q_proj.weight",
    "blocks.#.attention.key.weight": "model.layers.#.self_attn.k_proj.weight",
    "blocks.#.attention.value.weight": "model.layers.#.self_attn.v_proj.weight",
    "blocks.#.attention.output.weight": "model.layers.#.self_attn.o_proj.weight",
    "blocks.#.attention.query.bias": "model.layers.#.self_attn.q_proj.bias",
    "blocks.#.attention.key.bias": "model.layers.#.self_attn.k_proj.bias",
    "blocks.#.attention.value.bias": "model.layers.#.self_attn.v_proj.bias",
    "blocks.#.attention.output.bias": "model.layers.#.self_attn.o_proj.bias",
    "blocks.#.attention.query_norm.weight": "model.layers.#.self_attn.q_norm.weight",
    "blocks.#.attention.key_norm.weight": "model.layers.#.self_attn.k_norm.weight",
    "blocks.#.mlp_norm.weight": "model.layers.#.post_attention_layernorm.weight",
    "blocks.#.mlp.gate.weight": "model.layers.#.mlp.gate_proj.weight",
    "blocks.#.mlp.up.weight": "model.layers.#.mlp.up_proj.weight",
    "blocks.#.mlp.down.weight": "model.layers.#.mlp.down_proj.weight",
}
"""Llama's, Qwen2's and Qwen3's names; # is the layer."""

GPT2_NAMES = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "final_norm.weight": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
    "head.weight": "lm_head.weight",
    "blocks.#.attention_norm.weight": "transformer.h.#.ln_1.weight",
    "blocks.#.attention_norm.bias": "transformer.h.#.ln_1.bias",
    "blocks.#.attention.output.weight": "transformer.h.#.attn.c_proj.weight",
    "blocks.#.attention.output.bias": "transformer.h.#.attn.c_proj.bias",
    "blocks.#.mlp_norm.weight": "transformer.h.#.ln_2.weight",
    "blocks.#.mlp_norm.bias": "transformer.h.#.ln_2.bias",
    "blocks.#.mlp.up.weight": "transformer.h.#.mlp.c_fc.weight",
    "blocks.#.mlp.up.bias": "transformer.h.#.mlp.c_fc.bias",
    "blocks.#.mlp.down.weight": "transformer.h.#.mlp.c_proj.weight",
    "blocks.#.mlp.down.bias": "transformer.h.#.mlp.c_proj.bias",
}
"""GPT-2's names, but for query, key and value, which it keeps as one matrix `c_attn`."""

CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
GPT2_ATTENTION_BUFFER = re.compile(r"\.attn\.(bias|masked_bias)$")
READABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What a tensor may hold: the rest, such as int8, are steps whose size stands elsewhere."""

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


def to_huggingface(model: GPT, end_id: int | None = None) -> tuple[StateDict, dict[str, Any]]:
    """Weights under Hugging Face's names (float32, CPU) and the content of config.json.

    `end_id` is written as the id that begins and ends a text, and, for a classifier, as padding. A GPT-2 without query,
    key and value biases gets them as zeros.
    """
    config = model.config
    family = family_of(config)
    ours = {name: value.detach().float().cpu() for name, value in model.state_dict().items()}
    theirs: StateDict = {}
    for name, value in ours.items():
        if config.n_classes and name.startswith("head."):
            continue
        if family == "gpt2" and re.search(r"\.attention\.(query|key|value)\.", name):
            continue
        theirs[_their_name(name, family)] = value
    if family == "gpt2":
        for layer in range(config.n_layers):
            parts = [f"blocks.{layer}.attention.{part}" for part in ("query", "key", "value")]
            fused = f"transformer.h.{layer}.attn.c_attn"
            theirs[f"{fused}.weight"] = torch.cat([ours[f"{part}.weight"] for part in parts])
            zeros = torch.zeros(3 * config.d_model)
            theirs[f"{fused}.bias"] = torch.cat([ours[f"{p}.bias"] for p in parts]) if config.qkv_bias else zeros
        theirs = {name: value.t() if CONV1D.search(name) else value for name, value in theirs.items()}
    if config.n_classes:
        theirs["score.weight"] = ours["head.weight"]
    theirs = {name: value.contiguous().clone() for name, value in theirs.items()}
    return theirs, _their_config(config, family, end_id)


def from_huggingface(state_dict: StateDict, config_dict: dict[str, Any]) -> GPT:
    """A float32 model on the CPU from published weights and the content of their config.json.

    Raises WeightsMismatch, naming the tensor, when one is missing, unknown, transposed, of the wrong size, not of
    floating-point numbers or not finite.
    """
    config = config_from_huggingface(config_dict)
    family = family_of(config)
    with without_numbers():
        model = GPT(config)
    given = {name: value for name, value in state_dict.items() if not GPT2_ATTENTION_BUFFER.search(name)}
    if family == "gpt2" and not any(name.startswith("transformer.") for name in given):
        # OpenAI's own upload leaves out the prefix that transformers writes today.
        given = {name if name.startswith("lm_head") else f"transformer.{name}": value for name, value in given.items()}
    if config.tied_head and not config.n_classes and (head := given.pop("lm_head.weight", None)) is not None:
        embedding = given.get(_their_name("token_embedding.weight", family))
        if embedding is not None and not torch.equal(head.float(), embedding.float()):
            # transformers would run the file's head; a configuration that says otherwise would be read without it.
            raise WeightsMismatch(
                "tensor lm_head.weight is not the token embedding, though config.json ties them; "
                "set tie_word_embeddings to false, or leave the tensor out"
            )
    ours: StateDict = {}
    for name, wanted in model.state_dict().items():
        ours[name] = _take(given, name, tuple(wanted.shape), config, family)
    if family == "gpt2":
        for name in [name for name in given if ".attn.c_attn." in name]:
            given.pop(name)
    if given:
        raise WeightsMismatch(f"unknown tensors: {', '.join(sorted(given)[:5])}")
    model.load_state_dict(ours, assign=True)
    return model.eval()


def cut_to(model: GPT, config: GPTConfig) -> GPT:
    """The same weights under `config`, which may have fewer words, fewer positions and another dropout.

    A vocabulary is often padded, and words beyond the tokenizer's are never met; learned positions beyond the context
    neither. Raises WeightsMismatch, naming tensor and shapes, for anything that the model has less of.
    """
    with without_numbers():
        cut = GPT(config)
    given = model.state_dict()
    ours: StateDict = {}
    for name, wanted in cut.state_dict().items():
        value = given.get(name)
        shape = None if value is None else tuple(value.shape)
        if value is None or shape is None or shape[1:] != wanted.shape[1:] or shape[0] < wanted.shape[0]:
            raise WeightsMismatch(f"tensor {name} should be {tuple(wanted.shape)} or longer, found {shape}")
        if shape[0] > wanted.shape[0] and not name.startswith(("token_embedding.", "position_embedding.", "head.")):
            raise WeightsMismatch(f"tensor {name} should be {tuple(wanted.shape)}, found {shape}")
        ours[name] = value[: wanted.shape[0]].clone()
    cut.load_state_dict(ours, assign=True)
    cut.requires_grad_(True)
    return cut


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


def _take(given: StateDict, name: str, shape: tuple[int, ...], config: GPTConfig, family: Family) -> Tensor:
    """One of our tensors out of theirs; what is used once is removed from `given`."""
    part = (
        re.fullmatch(r"blocks\.(\d+)\.attention\.(query|key|value)\.(weight|bias)", name) if family == "gpt2" else None
    )
    if part is None:
        theirs = "score.weight" if config.n_classes and name == "head.weight" else _their_name(name, family)
        expected = shape[::-1] if family == "gpt2" and CONV1D.search(theirs) else shape
        value = given.pop(theirs, None)
    else:
        theirs = f"transformer.h.{part[1]}.attn.c_attn.{part[3]}"
        expected = (config.d_model, 3 * config.d_model) if part[3] == "weight" else (3 * config.d_model,)
        value = given.get(theirs)
    if value is None:
        raise WeightsMismatch(f"tensor {theirs} is missing; expected one of shape {expected}")
    if tuple(value.shape) != expected:
        hint = ", which is its transpose" if tuple(value.shape) == expected[::-1] else ""
        raise WeightsMismatch(f"tensor {theirs} should be {expected}, found {tuple(value.shape)}{hint}")
    if value.dtype not in READABLE:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in READABLE)
        raise WeightsMismatch(f"tensor {theirs} holds {str(value.dtype).removeprefix('torch.')}, not one of {kinds}")
    if part is not None:
        value = value.chunk(3, dim=-1)[("query", "key", "value").index(part[2])]
    if family == "gpt2" and CONV1D.search(theirs):
        value = value.t()
    value = value.detach().to("cpu", torch.float32).contiguous().clone()
    if not value.isfinite().all():
        raise WeightsMismatch(f"tensor {theirs} holds NaN or infinity")
    return value


def _their_name(name: str, family: Family) -> str:
    layer = re.search(r"\.(\d+)\.", name)
    number = layer[1] if layer else ""
    names = GPT2_NAMES if family == "gpt2" else LLAMA_NAMES
    return names[name.replace(f".{number}.", ".#.", 1) if layer else name].replace("#", number)


def _their_config(config: GPTConfig, family: Family, end_id: int | None) -> dict[str, Any]:
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
