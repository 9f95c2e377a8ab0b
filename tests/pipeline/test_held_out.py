"""A look at held-out text sees all of it, a little here and a little there, or that of the sources that count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model.gpt import GPT, GPTConfig
from pipeline.encodings import RANKS_FILE, encoding_of, write_ranks
from pipeline.held_out import HeldOut
from pipeline.manifest import Manifest
from pipeline.shards import SplitWriter, write_shards

RANKS = {**{bytes([byte]): byte for byte in range(256)}, b"bb": 256}
A, BB = ord("a"), 256


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """240 tokens of one byte, of the source "first", and then as many of two bytes, of the source "mine"."""
    write_ranks(RANKS, tmp_path / RANKS_FILE)
    writer = SplitWriter(tmp_path, "validation")
    ids = np.repeat(np.array([A, BB], np.uint16), 240)
    sources = [source for source in ("first", "mine") for _ in range(6)]
    writer.add(write_shards(tmp_path / "part", ids), list("abcdefghijkl"), sources, np.full(12, 40))
    writer.close()
    return tmp_path


FACTS = {"vocab_size": 258, "end_of_text": encoding_of(RANKS).eot_token, "shards": {"validation": [480]}}


@pytest.mark.parametrize(
    ("sources", "windows", "n_tokens", "n_bytes"),
    [
        ((), 4, 16 + 8 + 8 + 8, 16 + 8 + 16 + 16),  # those of a context of 16 that end at token 16, 168, 320 and 480
        ((), None, 480, 240 + 480),
        (["first"], 4, 1, 1),
        (["mine"], 4, 1, 2),
        (["mine", "first"], None, 480, 240 + 480),
        (["in training only"], None, 480, 240 + 480),
    ],
)
def test_windows_lie_all_over_the_sources_that_count(
    tokens: Path, sources: Sequence[str], windows: int | None, n_tokens: int, n_bytes: int
) -> None:
    """A model to which all tokens are alike pays log2 of their number for each, shared among the bytes looked at."""
    model = GPT(GPTConfig(vocab_size=258, context_length=16, n_layers=1, n_heads=1, d_model=8))
    torch.nn.init.zeros_(model.token_embedding.weight)
    manifest = Manifest("tokens", {}, {}, FACTS, {})
    found = HeldOut(tokens, manifest, windows=windows, sources=sources).look(model)
    assert found == {
        "validation_loss": pytest.approx(math.log(258)),
        "perplexity": pytest.approx(258, rel=1e-4),
        "bits_per_byte": pytest.approx(math.log2(258) * n_tokens / n_bytes),
    }
