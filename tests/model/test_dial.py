"""One integer gives a whole model and its training."""

from __future__ import annotations

from itertools import pairwise

import pytest

from model.dial import TOKENS_PER_WEIGHT, Shape, Training, shape, training
from model.gpt import GPTConfig


def dial(depth: int, vocab_size: int) -> tuple[Shape, Training, int]:
    """The shape and training of a depth, and the weights of a Llama: four width² of attention, eight of the rest."""
    made = shape(depth)
    weights = 12 * depth * made.d_model**2 + vocab_size * made.d_model
    return made, training(weights, made.d_model, made.context_length), weights


def tokens(context: int, made: Training) -> int:
    """Tokens trained on."""
    return made.steps * made.gradient_accumulation * made.batch_size * context


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8, 12, 20, 32])
def test_every_depth_gives_a_model_that_can_be_built_and_trained(depth: int) -> None:
    """Heads of 64 fill the width, the warm-up ends before training does, tokens come to twenty for each weight."""
    made, taught, weights = dial(depth, 8192)
    config = GPTConfig(8192, made.context_length, made.n_layers, made.n_heads, made.d_model)
    assert config.head_dim == 64 and made.d_model == 64 * depth
    assert 256 <= made.context_length <= 2048 and taught.warmup_steps <= taught.steps
    assert tokens(made.context_length, taught) / weights == pytest.approx(TOKENS_PER_WEIGHT, rel=0.01)


def test_deeper_is_larger_slower_and_gentler() -> None:
    """With the depth grow model, batch and tokens, and AdamW's rates fall."""
    for (less, taught_less, _), (more, taught_more, _) in pairwise(dial(depth, 8192) for depth in (2, 4, 8, 16)):
        assert less.d_model < more.d_model
        less_tokens, more_tokens = tokens(less.context_length, taught_less), tokens(more.context_length, taught_more)
        assert less_tokens < more_tokens and less_tokens / taught_less.steps < more_tokens / taught_more.steps
        assert taught_less.learning_rate > taught_more.learning_rate


def test_a_model_of_gpt2s_size_gets_the_batch_of_the_paper() -> None:
    """Depth 12 with GPT-2's vocabulary is 124M wide and takes about 300,000 tokens for an update (Bi et al., eq. 1)."""
    made, taught, _ = dial(12, 50_257)
    assert made.d_model == 768 and made.context_length == 1024
    assert taught.batch_size * taught.gradient_accumulation * 1024 == pytest.approx(300_000, rel=0.5)
    with pytest.raises(ValueError, match="depth is 0"):
        shape(0)


@pytest.mark.parametrize("given", [{"batch_size": 1}, {"gradient_accumulation": 1}, {"gradient_accumulation": 50}])
def test_what_is_given_is_held_and_the_tokens_stay(given: dict[str, int]) -> None:
    """Another batch or accumulation changes the rest, so that the model sees as many tokens."""
    free, held = training(29_360_128, 512, 512), training(29_360_128, 512, 512, **given)
    assert {name: getattr(held, name) for name in given} == given
    assert tokens(512, held) == pytest.approx(tokens(512, free), rel=0.01)


def test_heads_fill_a_given_width() -> None:
    """As many heads of about 64 as divide it."""
    assert [shape(4, d_model=width).n_heads for width in (256, 200, 48)] == [4, 2, 1]
