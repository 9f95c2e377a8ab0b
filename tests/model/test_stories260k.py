"""A real model that somebody else trained writes, word for word, what its author printed beside it.

It is karpathy's stories260K, a Llama in llama2.c's first export format, with its own vocabulary of 512 pieces.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.generation import generate
from model.gpt import GPT
from model.weights import from_huggingface, to_huggingface

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260K"
BEGINNING = 1

pytestmark = pytest.mark.skipif(not STORIES.exists(), reason="../shared/data/stories260K is not beside the checkout")


def read_llama2c(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and configuration under Hugging Face's names of a llama2.c file: seven integers, then float32 rows.

    Queries and keys are stored for rotation in neighbouring pairs; Hugging Face rotates halves, so rows move.
    """
    content = path.read_bytes()
    dim, d_ff, n_layers, n_heads, n_kv_heads, vocab_size, context_length = struct.unpack("<7i", content[:28])
    values = torch.from_numpy(np.frombuffer(content, "<f4", offset=28).copy())
    at = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return values[at - size : at].view(shape)

    def halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
        return rows.view(heads, -1, 2, dim).transpose(1, 2).reshape(-1, dim)

    head_dim = dim // n_heads
    kv_dim = n_kv_heads * head_dim
    weights = {"model.embed_tokens.weight": take(vocab_size, dim)}
    for name, shape in (
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv_dim, dim)),
        ("self_attn.v_proj", (kv_dim, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (d_ff, dim)),
        ("mlp.down_proj", (dim, d_ff)),
        ("mlp.up_proj", (d_ff, dim)),
    ):
        for layer in range(n_layers):
            rows = take(*shape)
            heads = {"self_attn.q_proj": n_heads, "self_attn.k_proj": n_kv_heads}.get(name)
            weights[f"model.layers.{layer}.{name}.weight"] = halves(rows, heads) if heads else rows
    weights["model.norm.weight"] = take(dim)
    take(context_length * head_dim)  # the rotation's cosines and sines
    assert at == len(values)
    config = {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": dim,
        "intermediate_size": d_ff,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "max_position_embeddings": context_length,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    return weights, config


def read_pieces(path: Path) -> list[bytes]:
    """The pieces of llama2.c's vocabulary file; byte pieces such as <0x0A> become that byte."""
    content, at, pieces = path.read_bytes(), 4, []
    while at < len(content):
        (length,) = struct.unpack_from("<i", content, at + 4)
        piece = content[at + 8 : at + 8 + length]
        byte = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)
        pieces.append(bytes([int(byte[1], 16)]) if byte else piece)
        at += 8 + length
    return pieces


@pytest.fixture
def stories() -> GPT:
    """The model as published."""
    return from_huggingface(*read_llama2c(STORIES / "stories260K.bin"))


def test_the_greedy_story_is_the_published_one(stories: GPT) -> None:
    """Greedy from the beginning, 256 tokens through the cache make the text in the model's description."""
    description = (STORIES / "stories260K.md").read_text(encoding="utf-8")
    expected = re.search(r"-t 0\.0\n(.*?)\n```", description, re.DOTALL)
    assert expected is not None
    pieces = read_pieces(STORIES / "tok512.bin")
    assert stories.config.parameter_count() == 260_032 and len(pieces) == stories.config.vocab_size == 512
    [story] = generate(stories, [[BEGINNING]], max_new_tokens=256, end_id=BEGINNING)
    text = b"".join(pieces[id_] for id_ in story).decode().removeprefix(" ")
    assert text == expected[1]


def test_its_weights_survive_the_way_out_and_in(stories: GPT) -> None:
    """Exported under Hugging Face's names and read again, a real model has the same bits."""
    again = from_huggingface(*to_huggingface(stories, end_id=BEGINNING))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in stories.state_dict().items())
