"""One integer gives a whole model and its training."""

from __future__ import annotations

from itertools import pairwise

import pytest

from model.dial import TOKENS_PER_WEIGHT, dial
from model.gpt import GPTConfig


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8, 12, 20, 32])
def test_every_depth_gives_a_model_that_can_be_built_and_trained(depth: int) -> None:
    """Heads of 64 fill the width, the warm-up ends before training does, tokens come to twenty for each weight."""
    made = dial(depth, 8192)
    config = GPTConfig(8192, made.context_length, made.n_layers, made.n_heads, made.d_model)
    assert config.head_dim == 64 and made.d_model == 64 * depth
    assert 256 <= made.context_length <= 2048 and made.warmup_steps <= made.steps
    weights = 12 * depth * made.d_model**2 + 8192 * made.d_model
    tokens = made.steps * made.gradient_accumulation * made.batch_size * made.context_length
    assert tokens / weights == pytest.approx(TOKENS_PER_WEIGHT, rel=0.01)


def test_deeper_is_larger_slower_and_gentler() -> None:
    """With the depth grow model, batch and tokens, and AdamW's rates fall."""
    made = [dial(depth, 8192) for depth in (2, 4, 8, 16)]

    def batch_tokens(one: object) -> int:
        values = vars(one)
        return int(values["batch_size"] * values["gradient_accumulation"] * values["context_length"])

    for less, more in pairwise(made):
        assert less.d_model < more.d_model and batch_tokens(less) < batch_tokens(more)
        assert less.steps * batch_tokens(less) < more.steps * batch_tokens(more)
        assert less.learning_rate > more.learning_rate


def test_a_model_of_gpt2s_size_gets_the_batch_of_the_paper() -> None:
    """Depth 12 with GPT-2's vocabulary is 124M wide and takes about 300,000 tokens for an update (Bi et al., eq. 1)."""
    made = dial(12, 50_257)
    assert made.d_model == 768 and made.context_length == 1024
    assert made.batch_size * made.gradient_accumulation * made.context_length == pytest.approx(300_000, rel=0.5)
    with pytest.raises(ValueError, match="depth is 0"):
        dial(0, 8192)
