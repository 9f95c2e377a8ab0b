"""A model and prompts in, continuations out: any number of prompts of any length at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.gpt import GPT, KeyValueCache

Stop = Callable[[Sequence[int]], int | None]
"""Given a row's new tokens, how many of them to keep if the row has come to its end, and None while it has not."""

# Scores times or divided by these stay far below float32's 3.4e38, beyond which probabilities are no numbers.
LARGEST_PENALTY = 1e9
COLDEST = 1e-9
"""A temperature below this is taken for it: of two scores that differ in float32, the higher one is certain then."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; ValueError for what means nothing."""

    temperature: float = 0.0
    """0 takes the likeliest token; above 1 evens the odds, below 1 sharpens them."""
    top_k: int = 0
    """Choose among this many of the likeliest; 0 among all."""
    top_p: float | None = None
    """Choose among the fewest of the likeliest that together reach this probability (Holtzman et al., 2020)."""
    min_p: float | None = None
    """Choose among those at least this many times as likely as the likeliest (Nguyen et al., 2024)."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that stand in the context less likely (Keskar et al., "CTRL"); 1 changes nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, but must be 0 or above")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, but must be 0, for no limit, or above")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}, but must be between 0 and 1")
        if not 1 / LARGEST_PENALTY <= self.repetition_penalty <= LARGEST_PENALTY:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}, but must be between {1 / LARGEST_PENALTY:g} and "
                f"{LARGEST_PENALTY:g}"
            )


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_id: int | None = None,
    stop: Stop | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | Sequence[int] = 0,
) -> list[list[int]]:
    """The new tokens of each prompt, up to but without `end_id`, and as many as `stop` keeps.

    The settings are those of `Sampling`. Each row draws from a random stream of its own, made from `seed` (one for all
    rows, or one for each), so a continuation does not depend on what its prompt is batched with. Prompts longer than
    the context keep their end; a row that fills the context forgets its older half, and the newer half is read again.
    """
    if not prompts:
        return []
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("an empty prompt has nothing to continue; start it with the end-of-text token")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    was_training = model.training
    model.eval()
    try:
        return _continued(model, prompts, max_new_tokens, end_id, stop, sampling, seed)
    finally:
        model.train(was_training)


def _continued(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_id: int | None,
    stop: Stop | None,
    sampling: Sampling,
    seed: int | Sequence[int],
) -> list[list[int]]:
    """The new tokens of each prompt, as `generate` says, by a model in eval mode."""
    context = model.config.context_length
    rows = [list(prompt)[-context:] for prompt in prompts]
    fresh: list[list[int]] = [[] for _ in prompts]
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    streams = [torch.Generator().manual_seed(each) for each in seeds]
    running = list(range(len(prompts)))
    reader = _Reader(model, rows, max_new_tokens)
    for count in range(max_new_tokens):
        chosen = _choose(reader.logits_BV, sampling, [rows[row] for row in running], [streams[row] for row in running])
        going = []
        for i, row in enumerate(running):
            if chosen[i] == end_id:
                continue
            fresh[row].append(chosen[i])
            rows[row].append(chosen[i])
            kept = stop(fresh[row]) if stop else None
            if kept is None:
                going.append(i)
            else:
                del fresh[row][kept:]
        if not going or count + 1 == max_new_tokens:
            break
        running = [running[i] for i in going]
        if len(going) < len(chosen):
            reader.keep(going)
        if reader.full:
            outgrown = {i: rows[row] for i, row in enumerate(running) if len(rows[row]) > context}
            for ids in outgrown.values():
                del ids[: -max(1, context // 2)]
            reader.make_room({i: ids[:-1] for i, ids in outgrown.items()}, max_new_tokens - count)
        reader.read([chosen[i] for i in going])
    return fresh


class _Reader:
    """Rows of different lengths, padded on the left and read through one cache; holds the scores that follow them.

    `places` says where in the cache the rows are that still go on.
    """

    def __init__(self, model: GPT, rows: list[list[int]], new_tokens: int) -> None:
        self.model = model
        self._lay_out([len(row) for row in rows], new_tokens)
        width, device = max(len(row) for row in rows), model.token_embedding.weight.device
        ids_BT = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        self.logits_BV = self._forward(ids_BT)

    def _lay_out(self, lengths: list[int], new_tokens: int) -> None:
        """An empty cache for rows of these lengths, padded to the longest, and as many new tokens."""
        weight = self.model.token_embedding.weight
        width = max(lengths)
        padding_B = torch.tensor([width - length for length in lengths], device=weight.device)
        self.padding_B = padding_B if padding_B.any() else None
        capacity = min(self.model.config.context_length, width + new_tokens)
        self.cache = KeyValueCache(self.model.config, len(lengths), capacity, weight)
        self.places = list(range(len(lengths)))

    @property
    def full(self) -> bool:
        """Whether the cache has no room for one more token."""
        return self.cache.length >= self.cache.capacity

    def read(self, ids: list[int]) -> None:
        """One more token for every row."""
        all_ids = [0] * self.cache.batch_size
        for place, id_ in zip(self.places, ids, strict=True):
            all_ids[place] = id_
        self.logits_BV = self._forward(torch.tensor(all_ids, device=self.logits_BV.device)[:, None])

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows, which have ended. They leave the cache an eighth at a time, since that copies it."""
        self.places = [self.places[row] for row in rows]
        if len(rows) <= self.cache.batch_size * 7 // 8:
            index = torch.tensor(self.places, device=self.logits_BV.device)
            self.cache.keep(index)
            self.padding_B = None if self.padding_B is None else self.padding_B[index]
            self.places = list(range(len(rows)))

    def make_room(self, anew: dict[int, list[int]], new_tokens: int) -> None:
        """Read the rows in `anew` again, from these tokens; the others' keys and values move left, over their padding.

        Which row is read again when is for it alone to say, so the rows beside it change nothing.
        """
        padding = [0] * self.cache.batch_size if self.padding_B is None else self.padding_B.tolist()
        parts = [(self.cache, place, self.cache.length - padding[place]) for place in self.places]
        again = _Reader(self.model, list(anew.values()), 0).cache if any(anew.values()) else self.cache
        for number, (row, ids) in enumerate(anew.items()):
            parts[row] = (again, number, len(ids))
        self._lay_out([length for _, _, length in parts], new_tokens)
        end = max(length for _, _, length in parts)
        self.cache.reserve(end)
        self.cache.length = end
        for to, (cache, row, length) in enumerate(parts):
            new, old = slice(end - length, end), slice(cache.length - length, cache.length)
            self.cache.keys_LBKCS[:, to, ..., new] = cache.keys_LBKCS[:, row, ..., old]
            self.cache.values_LBKSC[:, to, :, new] = cache.values_LBKSC[:, row, :, old]

    def _forward(self, ids_BT: Tensor) -> Tensor:
        """Scores of the rows that are still wanted."""
        hidden_BD = self.model(ids_BT, self.cache, self.padding_B)[:, -1]
        return self.model.logits(hidden_BD if len(self.places) == len(hidden_BD) else hidden_BD[self.places])


def next_token_probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities after temperature (above 0), then top-k, then top-p, then min-p."""
    scores_V = logits_V.float() / max(sampling.temperature, COLDEST)
    if 0 < sampling.top_k < len(scores_V):
        kept = scores_V.topk(sampling.top_k).indices
        scores_V = torch.full_like(scores_V, -math.inf).index_copy(0, kept, scores_V[kept])
    p_V = scores_V.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_V, order_V = p_V.sort(descending=True, stable=True)
        outside = sorted_V.cumsum(-1) - sorted_V >= sampling.top_p
        outside[0] = False  # a top_p below float32's least number is 0 to it
        p_V = torch.zeros_like(p_V).index_copy(0, order_V, sorted_V.masked_fill(outside, 0.0))
        p_V = p_V / p_V.sum()
    if sampling.min_p:
        p_V = p_V.masked_fill(p_V < sampling.min_p * p_V.max(), 0.0)
        p_V = p_V / p_V.sum()
    return p_V


def penalise_repetition(logits_V: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Scores with those of the tokens seen divided by the penalty where positive, multiplied where negative."""
    ids = torch.tensor(sorted(set(seen)), device=logits_V.device)
    scores = logits_V[ids]
    return logits_V.index_copy(0, ids, torch.where(scores > 0, scores / penalty, scores * penalty))


def _choose(
    logits_BV: Tensor, sampling: Sampling, seen: Sequence[Sequence[int]], streams: Sequence[torch.Generator]
) -> list[int]:
    """The next token of each row."""
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        rows = [penalise_repetition(row, ids, penalty) for row, ids in zip(logits_BV, seen, strict=True)]
        logits_BV = torch.stack(rows)
    if sampling.temperature == 0:
        return [int(id_) for id_ in logits_BV.argmax(-1)]
    chosen = []
    for logits_V, stream in zip(logits_BV.cpu(), streams, strict=True):
        chosen.append(int(torch.multinomial(next_token_probabilities(logits_V, sampling), 1, generator=stream)))
    return chosen
