"""Generation: the textbook's probabilities, and continuations that depend on their own prompt and seed alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model.generation import Sampling, Stop, generate, next_token_probabilities, penalise_repetition
from model.gpt import GPT, GPTConfig
from model.weights import cut_to

SMALL: dict[str, Any] = {"vocab_size": 40, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 32}
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [35, 8, 9, 7, 9, 3, 2, 38, 4, 6]]
TEXTBOOK_LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
"""Scores of: closer every effort forward inches moves pizza toward you."""


@pytest.fixture(params=["rope", "learned"])
def model(request: pytest.FixtureRequest) -> GPT:
    """A small model with decided opinions."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(**SMALL, positions=request.param, tied_head=False)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize(("temperature", "toward"), [(1, 0.3576), (0.1, 0.0090), (5, 0.2203)])
def test_the_textbooks_temperatures(temperature: float, toward: float) -> None:
    """Temperatures 1, 0.1 and 5 give the tutorial's probabilities of "toward"."""
    p = next_token_probabilities(TEXTBOOK_LOGITS, Sampling(temperature))
    assert p[7].item() == pytest.approx(toward, abs=5e-5)
    assert p.sum().item() == pytest.approx(1)


def test_a_hot_model_orders_pizza() -> None:
    """At temperature 5 the model moves "pizza" toward you in 4.3 % of all cases, as the tutorial warns."""
    assert next_token_probabilities(TEXTBOOK_LOGITS, Sampling(5.0))[6].item() == pytest.approx(0.0430, abs=5e-5)


def test_the_textbooks_top_three() -> None:
    """Top-k 3 leaves closer, forward and toward: 0.0615, 0.5775, 0.3610."""
    p = next_token_probabilities(TEXTBOOK_LOGITS, Sampling(1.0, top_k=3))
    assert [round(value, 4) for value in p.tolist()] == [0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0]


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    """Of 0.5, 0.3, 0.15 and 0.05, p = 0.8 keeps two, p = 0.81 three, a tiny p the likeliest alone."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    kept = {
        p: (next_token_probabilities(logits, Sampling(1.0, top_p=p)) > 0).tolist()
        for p in (0.79, 0.81, 0.01, 5e-324, 1.0)
    }
    assert kept[0.79] == [False, True, False, True]
    assert kept[0.81] == [True, True, False, True]
    assert kept[0.01] == kept[5e-324] == [False, True, False, False]
    assert kept[1.0] == [True] * 4
    assert next_token_probabilities(logits, Sampling(1.0, top_p=0.79)).sum().item() == pytest.approx(1)


def test_min_p_keeps_what_is_nearly_as_likely_as_the_likeliest() -> None:
    """Of 0.5, 0.3, 0.15 and 0.05, min-p 0.3 keeps those of at least 0.15, 0.31 one fewer, 1 the likeliest alone."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    kept = {p: (next_token_probabilities(logits, Sampling(1.0, min_p=p)) > 0).tolist() for p in (0.29, 0.31, 1.0, 0.0)}
    assert kept == {
        0.29: [True, True, False, True],
        0.31: [False, True, False, True],
        1.0: [False, True, False, False],
        0.0: [True] * 4,
    }
    assert next_token_probabilities(logits, Sampling(1.0, min_p=0.31)).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("penalty", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-9])
def test_a_temperature_of_almost_nothing_takes_the_likeliest(model: GPT, temperature: float, penalty: float) -> None:
    """As the temperature falls to 0 the samples become the greedy continuation, whatever the penalty."""
    settings: dict[str, Any] = {"max_new_tokens": 6, "repetition_penalty": penalty}
    assert generate(model, PROMPTS, temperature=temperature, **settings) == generate(model, PROMPTS, **settings)


def test_a_temperature_without_measure_evens_all_odds() -> None:
    """At the highest temperature that is a number every token is as likely as every other."""
    assert next_token_probabilities(TEXTBOOK_LOGITS, Sampling(1.7e308)).tolist() == pytest.approx([1 / 9] * 9)


def test_the_repetition_penalty_makes_seen_tokens_less_likely() -> None:
    """A positive score is divided, a negative one multiplied, once however often the token stands in the context."""
    penalised = penalise_repetition(torch.tensor([2.0, -2.0, 3.0, -3.0]), [0, 1, 0, 0], 2.0)
    assert penalised.tolist() == [1.0, -4.0, 3.0, -3.0]


def test_a_penalty_without_measure_never_repeats(model: GPT) -> None:
    """With an enormous penalty no token is chosen twice, nor one of the prompt; each row is penalised for its own."""
    rows = generate(model, PROMPTS[:3], max_new_tokens=6, repetition_penalty=1e9)
    for prompt, row in zip(PROMPTS, rows, strict=False):
        assert len({*prompt, *row}) == len(set(prompt)) + 6
    assert rows[0] == generate(model, PROMPTS[:1], max_new_tokens=6, repetition_penalty=1e9)[0]


@torch.no_grad()
def by_hand(model: GPT, prompt: list[int], n: int) -> list[int]:
    """Greedy continuation without cache, batch or padding, within the context."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_continuations_are_those_without_cache_and_batch(model: GPT) -> None:
    """Four prompts of unequal length, batched through the cache, continue as each does alone."""
    assert generate(model, PROMPTS, max_new_tokens=6) == [by_hand(model, prompt, 6) for prompt in PROMPTS]


def test_a_prompts_continuation_does_not_depend_on_its_batch(model: GPT) -> None:
    """Sampled with a seed, a prompt continues the same way alone and with others, and every time."""
    settings: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "top_k": 20, "top_p": 0.95, "seed": 7}
    together = generate(model, PROMPTS, **settings)
    assert together == generate(model, PROMPTS, **settings)
    assert together == [generate(model, [prompt], **settings)[0] for prompt in PROMPTS]
    assert together != generate(model, PROMPTS, **(settings | {"seed": 8}))


@pytest.mark.parametrize("context_length", [1, 2, 3, 16])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("end_id", [None, 7])
def test_beyond_the_context_too_a_continuation_does_not_depend_on_its_batch(
    model: GPT, context_length: int, temperature: float, end_id: int | None
) -> None:
    """Each row forgets when it is full itself, however long those beside it are and whenever they end."""
    model = cut_to(model, dataclasses.replace(model.config, context_length=context_length)).eval()
    settings: dict[str, Any] = {"max_new_tokens": 60, "temperature": temperature, "end_id": end_id}
    prompts = [*PROMPTS, [4, 4], list(range(20)), list(range(16))]
    together = generate(model, prompts, seed=range(7), **settings)
    assert together == [generate(model, [prompt], seed=i, **settings)[0] for i, prompt in enumerate(prompts)]
    if end_id is None:
        assert [len(row) for row in together] == [60] * 7


def test_one_prompt_can_be_continued_in_several_ways(model: GPT) -> None:
    """A seed for each row makes different samples of the same prompt."""
    rows = generate(model, [[3, 1]] * 4, max_new_tokens=6, temperature=1.5, seed=[0, 1, 2, 0])
    assert rows[0] == rows[3] and rows[0] != rows[1] != rows[2]


def test_every_row_ends_at_its_own_end_of_text(model: GPT) -> None:
    """Rows that end early give what came before the end; the others go on as if nothing had happened."""
    free = generate(model, PROMPTS, max_new_tokens=6)
    end_id = free[0][2]
    expected = [row[: row.index(end_id)] if end_id in row else row for row in free]
    assert generate(model, PROMPTS, max_new_tokens=6, end_id=end_id) == expected
    assert len({len(row) for row in expected}) > 1


def stop_at(sequences: Sequence[Sequence[int]]) -> Stop:
    """End a row before the first of these sequences of tokens."""
    wanted = [list(sequence) for sequence in sequences]

    def stop(tokens: Sequence[int]) -> int | None:
        found = [len(ids) for ids in wanted if list(tokens[-len(ids) :]) == ids]
        return len(tokens) - max(found) if found else None

    return stop


def test_rows_that_end_one_by_one_leave_the_others_alone(model: GPT) -> None:
    """Of many rows some end at every token, few enough at a time to stay in the cache: each is what it is alone."""
    prompts = [[1 + i % 39, 1 + i * 7 % 39, *range(1, 1 + i % 4)] for i in range(40)]
    settings: dict[str, Any] = {"max_new_tokens": 10, "temperature": 3.0, "end_id": 0, "stop": stop_at([[7], [11]])}
    batch = generate(model, prompts, seed=range(40), **settings)
    assert len(set(map(len, batch))) > 5
    assert batch == [generate(model, [prompt], seed=i, **settings)[0] for i, prompt in enumerate(prompts)]


def test_every_row_ends_before_its_stop_sequence(model: GPT) -> None:
    """A row ends before the first of the stop sequences, of two where they end together before the longer one."""
    free = generate(model, PROMPTS, max_new_tokens=6)
    sequences = [free[0][2:4], free[1][1:5], free[1][4:5]]

    def ended(row: list[int]) -> list[int]:
        for end in range(1, len(row) + 1):
            found = [len(ids) for ids in sequences if row[:end][-len(ids) :] == ids]
            if found:
                return row[: end - max(found)]
        return row

    expected = [ended(row) for row in free]
    assert generate(model, PROMPTS, max_new_tokens=6, stop=stop_at(sequences)) == expected
    assert len({len(row) for row in expected}) > 1


@torch.no_grad()
def test_a_full_context_forgets_its_older_half(model: GPT) -> None:
    """Past 16 tokens the model reads the newest 8 again and goes on; a prompt beyond the context keeps its end."""
    prompt = list(range(20))
    ids, window = [], prompt[-16:]
    for _ in range(20):
        ids.append(int(model.logits(model(torch.tensor([window])))[0, -1].argmax()))
        window = [*window, ids[-1]]
        if len(window) > 16:
            window = window[-8:]
    assert generate(model, [prompt], max_new_tokens=20) == [ids]


def test_no_prompt_and_no_token_are_fine(model: GPT) -> None:
    """Nothing asked, nothing given; generating leaves the model in its mode, even when it fails."""
    assert generate(model, [], max_new_tokens=5) == []
    assert generate(model, [[1]], max_new_tokens=0) == [[]]
    model.train()
    generate(model, [[1]], max_new_tokens=2)
    assert model.training

    def stop(ids: Sequence[int]) -> int | None:
        raise KeyError(ids[0])

    with pytest.raises(KeyError):
        generate(model, [[1]], max_new_tokens=2, stop=stop)
    assert model.training


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 1.0, "top_k": -1}, "top_k is -1, but must be 0, for no limit, or above"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 1.0, "min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": 1e-38}, r"repetition_penalty is 1e-38, but must be between 1e-09 and 1e\+09"),
        ({"repetition_penalty": 1e38}, r"repetition_penalty is 1e\+38"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    """Settings that mean nothing, and a prompt without tokens, are refused."""
    model = GPT(GPTConfig(**SMALL))
    with pytest.raises(ValueError, match=said):
        generate(model, [[1]], max_new_tokens=2, **settings)
    with pytest.raises(ValueError, match="an empty prompt"):
        generate(model, [[1], []], max_new_tokens=2)
