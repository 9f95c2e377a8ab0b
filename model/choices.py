"""A model and questions with several possible continuations in, how likely each continuation is out.

The continuations of a question begin alike, at least with the question. What all of them share is read once, and its
keys and values serve every continuation; questions of like length are read together, and so are continuations. Scores
over the vocabulary are worked out only where a continuation is judged. Of HellaSwag's tokens half are read so, and a
quarter reach the head.

Shape suffixes as in model/gpt.py: M rows of hidden states, V vocabulary, D width; and K judged tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.gpt import GPT, KeyValueCache

TOKENS_PER_PASS = 512
"""Padding included. More of them push attention out of the processor's cache: 64 questions of HellaSwag take
stories260K 0.6 to 0.9 CPU-seconds in passes of 512 tokens, 1.1 in passes of 2,048 (one Zen 5 core, torch 2.13)."""
ROWS, WORDS = 512, 2048
"""Hidden states that meet the head at once, and words of it that they meet: what a processor's cache holds."""


@dataclass(frozen=True)
class Choice:
    """A question's tokens and those of what may follow."""

    context: Sequence[int]
    """Before the continuations, one token at least."""
    continuations: Sequence[Sequence[int]]
    """One token at least in each."""


@dataclass(frozen=True)
class ContinuationScore:
    """How a model takes to a continuation."""

    log_probability: float
    """Natural logarithm of the probability of all of its tokens after the context."""
    is_greedy: bool
    """Whether each of its tokens is the likeliest where it stands."""
    n_tokens: int
    """How many they are."""


@torch.inference_mode()
def score_continuations(
    model: GPT, choices: Sequence[Choice], tokens_per_pass: int = TOKENS_PER_PASS
) -> list[list[ContinuationScore]]:
    """The score of every continuation of every question, in the order given.

    A context that is too long loses its beginning, for each continuation as much as it must (as in the harness).
    ValueError for an empty context or continuation, and for a continuation longer than the model's context. The same
    choices in the same order give the same bits; other company changes the last digits of float32.
    """
    context_length = model.config.context_length
    plans = [_plan(choice, number, context_length) for number, choice in enumerate(choices)]
    was_training = model.training
    model.eval()
    scores: list[list[ContinuationScore]] = [[] for _ in choices]
    for batch in _batches(plans, tokens_per_pass, context_length):
        for plan, found in zip(batch, _score(model, batch, tokens_per_pass), strict=True):
            scores[plan.number] = found
    model.train(was_training)
    return scores


@dataclass(frozen=True)
class _Plan:
    """One question: its rows, cut to the context and one more, and how many tokens all of them share."""

    number: int
    rows: list[list[int]]
    judged: list[int]
    """Tokens at the end of each row that belong to the continuation."""
    shared: int

    @property
    def tail(self) -> int:
        """The longest row's tokens to read after the shared ones."""
        return max(len(row) for row in self.rows) - 1 - self.shared


def _plan(choice: Choice, number: int, context_length: int) -> _Plan:
    if not choice.context or not choice.continuations or not all(choice.continuations):
        raise ValueError(f"question {number}: an empty context or continuation cannot be scored")
    longest = max(len(continuation) for continuation in choice.continuations)
    if longest > context_length:
        raise ValueError(f"question {number}: a continuation of {longest} tokens, but the model sees {context_length}")
    rows = [[*choice.context, *continuation][-context_length - 1 :] for continuation in choice.continuations]
    # The last token of a row is only judged, never read.
    limit = min(len(row) for row in rows) - 1
    alike = (len({row[i] for row in rows}) == 1 for i in range(limit))
    shared = next((i for i, same in enumerate(alike) if not same), limit)
    return _Plan(number, rows, [len(continuation) for continuation in choice.continuations], shared)


def _batches(plans: Sequence[_Plan], tokens_per_pass: int, context_length: int) -> Iterator[list[_Plan]]:
    """Questions whose shared beginnings are read in one pass, the longest first: what does not fit shows at once."""
    batch: list[_Plan] = []
    tail = 0
    for plan in sorted(plans, key=lambda plan: (-plan.shared, -plan.tail, plan.number)):
        width = batch[0].shared if batch else plan.shared
        # In one pass all rows are as long as the longest beginning and the longest tail together.
        too_long = width + max(tail, plan.tail) > context_length
        if batch and (too_long or (len(batch) + 1) * max(width, 1) > tokens_per_pass or plan.shared == 0 < width):
            yield batch
            batch, tail = [], 0
        batch.append(plan)
        tail = max(tail, plan.tail)
    if batch:
        yield batch


@dataclass(frozen=True)
class _Row:
    """A question's tokens with one continuation, in a batch."""

    question: int
    """Which of the batch."""
    ids: list[int]
    first_judged: int
    """Where the continuation begins."""
    shared: int
    """How many tokens it has in common with the question's other rows."""


@dataclass
class _Judged:
    """Tokens that are judged in one pass: which hidden state predicts them, and in which row they stand."""

    states: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, number: int, row: _Row, begin: int, end: int, state: int) -> None:
        """The row's tokens from `begin` to `end`, as far as they are judged; `state` predicts its first."""
        for at in range(max(begin, row.first_judged), min(end, len(row.ids))):
            self.states.append(state + at)
            self.targets.append(row.ids[at])
            self.rows.append(number)


def _score(model: GPT, batch: Sequence[_Plan], tokens_per_pass: int) -> list[list[ContinuationScore]]:
    """The shared beginnings in one pass, then the tails in passes of rows of like length."""
    device = model.token_embedding.weight.device
    rows = [
        _Row(question, ids, len(ids) - judged, plan.shared)
        for question, plan in enumerate(batch)
        for ids, judged in zip(plan.rows, plan.judged, strict=True)
    ]
    log_p, greedy = torch.zeros(len(rows), dtype=torch.float64), torch.ones(len(rows), dtype=torch.bool)

    def judge(hidden_BTD: Tensor, judged: _Judged) -> None:
        if judged.rows:
            log_p_K, greedy_K = _log_probabilities(model, hidden_BTD.flatten(0, 1), judged)
            rows_K = torch.tensor(judged.rows)
            log_p.index_add_(0, rows_K, log_p_K)
            greedy[rows_K[~greedy_K]] = False

    cache, padding_B, width = None, None, batch[0].shared
    if width:
        beginnings = [plan.rows[0][: plan.shared] for plan in batch]
        ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in beginnings], device=device)
        padding_B = torch.tensor([width - len(ids) for ids in beginnings], device=device)
        padding_B = padding_B if padding_B.any() else None
        cache = KeyValueCache(model.config, len(batch), width, model.token_embedding.weight)
        judged = _Judged()
        for number, row in enumerate(rows):
            judged.add(number, row, 1, row.shared + 1, (row.question + 1) * width - row.shared - 1)
        judge(model(ids_BT, cache, padding_B), judged)
    for part in _tails(rows, tokens_per_pass):
        tails = [rows[number].ids[rows[number].shared : -1] for number in part]
        length = len(tails[0])
        ids_BT = torch.tensor([ids + [0] * (length - len(ids)) for ids in tails], device=device)
        questions = [rows[number].question for number in part]
        branch = None if cache is None else cache.branch(questions, width + length)
        judged = _Judged()
        for i, number in enumerate(part):
            row = rows[number]
            judged.add(number, row, row.shared + 1, len(row.ids), i * length - 1 - row.shared)
        judge(model(ids_BT, branch, None if padding_B is None else padding_B[questions]), judged)
    found = iter(zip(log_p.tolist(), greedy.tolist(), strict=True))
    return [[ContinuationScore(*next(found), n_tokens) for n_tokens in plan.judged] for plan in batch]


def _tails(rows: Sequence[_Row], tokens_per_pass: int) -> Iterator[list[int]]:
    """Rows that are read on in one pass, the longest first; those with nothing left to read are left out."""
    lengths = [len(row.ids) - 1 - row.shared for row in rows]
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, tokens_per_pass // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def _log_probabilities(model: GPT, hidden_MD: Tensor, judged: _Judged) -> tuple[Tensor, Tensor]:
    """Of each judged token, its log-probability (K,) in float64 and whether it is the likeliest, both on the CPU.

    A state that predicts several tokens, the last before the continuations part, meets the head once.
    """
    device = hidden_MD.device
    states, which_K = torch.unique(torch.tensor(judged.states, device=device), return_inverse=True)
    targets_K = torch.tensor(judged.targets, device=device)
    scores_K = torch.empty(len(targets_K), device=device)
    best_M, sums_M = torch.full((len(states),), -math.inf, device=device), torch.zeros(len(states), device=device)
    for begin in range(0, len(states), ROWS):
        rows = slice(begin, begin + ROWS)
        best, sums = best_M[rows], sums_M[rows]
        for first, logits_MV in _logits(model, hidden_MD[states[rows]]):
            M, V = logits_MV.shape
            row_K, word_K = which_K - begin, targets_K - first
            inside = ((row_K >= 0) & (row_K < M) & (word_K >= 0) & (word_K < V)).nonzero()[:, 0]
            scores_K[inside] = logits_MV[row_K[inside], word_K[inside]]
            new_best = torch.maximum(best, logits_MV.amax(-1))
            sums.mul_((best - new_best).exp_()).add_(logits_MV.sub_(new_best[:, None]).exp_().sum(-1))
            best.copy_(new_best)
    above_K = scores_K - best_M[which_K]
    return (above_K - sums_M.log()[which_K]).double().cpu(), (above_K >= 0).cpu()


def _logits(model: GPT, hidden_MD: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The scores of some words at a time, and the number of the first of them."""
    if hidden_MD.is_cpu and (model.head is None or isinstance(model.head, nn.Linear)):
        weight_VD = model.head_weight()
        for first in range(0, len(weight_VD), WORDS):
            yield first, (hidden_MD @ weight_VD[first : first + WORDS].t()).float()
    else:  # a head that is packed for inference gives all or nothing
        yield 0, model.logits(hidden_MD)
