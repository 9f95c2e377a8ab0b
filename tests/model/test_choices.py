"""Continuations: what is shared is read once, and every score is what a plain reading of the whole row gives."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model.choices
from model.choices import Choice, score_continuations
from model.gpt import GPT, GPTConfig

CONTEXT = 12
SHAPES = {
    "llama": {"n_kv_heads": 1},
    "gpt2": {"norm": "layernorm", "positions": "learned", "mlp": "gelu", "linear_bias": True, "qkv_bias": True},
}
IDS = st.integers(0, 6)  # so few that rows often begin alike


def make(kind: str) -> GPT:
    """A small model with a context of 12."""
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": CONTEXT, "n_layers": 2, "n_heads": 2, "d_model": 16}
    return GPT(GPTConfig(**shape, **SHAPES[kind])).eval()


MODELS = {kind: make(kind) for kind in SHAPES}


@torch.no_grad()
def by_hand(model: GPT, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One row, read whole and alone, cut on the left to the context and one token more."""
    row = [*context, *continuation][-CONTEXT - 1 :]
    log_p_TV = model.logits(model(torch.tensor([row[:-1]])))[0].log_softmax(-1)[-len(continuation) :]
    targets = torch.tensor(continuation)
    return float(log_p_TV.gather(1, targets[:, None]).sum()), bool((log_p_TV.argmax(-1) == targets).all())


choices = st.builds(
    Choice,
    context=st.lists(IDS, min_size=1, max_size=15),
    continuations=st.lists(st.lists(IDS, min_size=1, max_size=CONTEXT), min_size=1, max_size=4),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(choices, max_size=5), st.sampled_from(sorted(SHAPES)), st.sampled_from([1, 7, 40, 2048]))
def test_a_score_is_what_the_whole_row_gives(asked: list[Choice], kind: str, tokens_per_pass: int) -> None:
    """However questions are batched, shared and cut, a continuation's score is that of its row read alone."""
    found = score_continuations(MODELS[kind], asked, tokens_per_pass)
    assert [len(scores) for scores in found] == [len(choice.continuations) for choice in asked]
    for choice, scores in zip(asked, found, strict=True):
        for continuation, score in zip(choice.continuations, scores, strict=True):
            log_p, greedy = by_hand(MODELS[kind], list(choice.context), list(continuation))
            assert score.log_probability == pytest.approx(log_p, abs=1e-4)
            assert (score.is_greedy, score.n_tokens) == (greedy, len(continuation))


def test_the_vocabulary_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that is met seven words and two states at a time gives the scores of the whole one."""
    asked = [Choice([1, n], [[2, 3, n], [30, 4], [5]]) for n in range(9)]
    whole = score_continuations(MODELS["llama"], asked)
    monkeypatch.setattr(model.choices, "WORDS", 7)
    monkeypatch.setattr(model.choices, "ROWS", 2)
    pieces = score_continuations(MODELS["llama"], asked)
    for one, other in zip(chain.from_iterable(whole), chain.from_iterable(pieces), strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
        assert (one.is_greedy, one.n_tokens) == (other.is_greedy, other.n_tokens)


def test_scoring_again_gives_the_same_bits() -> None:
    """The same questions in the same order have the same scores to the last bit."""
    asked = [Choice([1, n], [[2, 3, n], [2, 4], [5]]) for n in range(9)]
    assert score_continuations(MODELS["llama"], asked) == score_continuations(MODELS["llama"], asked)


def test_a_model_that_knows_nothing_finds_all_words_equally_likely() -> None:
    """With an embedding of zeros each of 31 tokens has the probability 1/31, and the likeliest is any of them."""
    model = make("llama")
    model.token_embedding.weight.data.zero_()
    [[two, three]] = score_continuations(model, [Choice([1], [[2, 3], [2, 3, 4]])])
    assert two.log_probability == pytest.approx(-2 * math.log(31))
    assert three.log_probability == pytest.approx(-3 * math.log(31))


def test_one_token_continuations_need_one_pass_over_the_question() -> None:
    """Answers of one token are judged by the question's last state; nothing is read twice."""
    model, read = make("llama"), []
    model.register_forward_hook(lambda _model, inputs, _hidden: read.append(inputs[0].numel()))
    score_continuations(model, [Choice([1, 2, 3], [[4], [5], [6]])])
    assert read == [3]


def test_padding_of_several_questions_stays_out_of_the_context() -> None:
    """A question as long as the context and one with a long continuation are not read in one pass."""
    asked = [Choice([1] * 11, [[2], [3]]), Choice([1, 2], [[3] * 10, [4] * 10])]
    found = score_continuations(MODELS["gpt2"], asked)
    assert found[1][0].log_probability == pytest.approx(by_hand(MODELS["gpt2"], [1, 2], [3] * 10)[0], abs=1e-4)


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        (Choice([], [[1]]), "an empty context"),
        (Choice([1], []), "an empty context or continuation"),
        (Choice([1], [[2], []]), "an empty context or continuation"),
        (Choice([1], [[2] * 13]), "a continuation of 13 tokens, but the model sees 12"),
    ],
)
def test_what_cannot_be_scored_is_refused(choice: Choice, why: str) -> None:
    """The error names the question by its place."""
    with pytest.raises(ValueError, match=f"question 1: {why}"):
        score_continuations(MODELS["llama"], [Choice([1], [[2]]), choice])
