"""Our weights in, Hugging Face's out, and back: name maps for GPT-2, Llama, Qwen2 and Qwen3.

The rotary layout is Llama's published one (half-split), so no row is permuted. GPT-2's published weights are kept as
inputs × outputs (its Conv1D), and query, key and value in one matrix: those are transposed and split here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.gpt import GPT, GPTConfig
from model.huggingface_config import (
    Family,
    WeightsMismatch,
    config_from_huggingface,
    config_to_huggingface,
    family_of,
)
from model.outline import without_numbers

StateDict = dict[str, Tensor]
WORD_TENSORS = ("token_embedding.weight", "head.weight")
"""The tensors that have a row for each word of the vocabulary."""

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
    return theirs, config_to_huggingface(config, end_id)


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


def cut_to(model: GPT, config: GPTConfig, words: Sequence[int | None] | None = None) -> GPT:
    """The same weights under `config`, which may have fewer words, fewer positions and another dropout.

    A vocabulary is often padded, and words beyond the tokenizer's are never met; learned positions beyond the context
    neither. `words` says which of the model's words each of the new ones is, where the ids are not the same; one that
    the model lacks (None) gets the mean of the others. Raises WeightsMismatch, naming tensor and shapes, for anything
    that the model has less of.
    """
    with without_numbers():
        cut = GPT(config)
    given = model.state_dict()
    if words is not None:
        given |= {name: _renumbered(name, given[name], words) for name in WORD_TENSORS if name in given}
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


def _renumbered(name: str, value: Tensor, words: Sequence[int | None]) -> Tensor:
    """A row of `value` for each of `words`, which are numbers of its rows; the mean of those for None."""
    known = torch.tensor([word for word in words if word is not None])
    if int(known.max()) >= len(value):
        raise WeightsMismatch(f"tensor {name} should have more than {int(known.max())} rows, found {len(value)}")
    is_known = torch.tensor([word is not None for word in words])
    rows = value.new_empty(len(words), value.shape[1])
    rows[is_known] = value[known]
    rows[~is_known] = value[known].float().mean(0).to(value.dtype)
    return rows


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
