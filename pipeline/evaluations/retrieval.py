"""Goes in: questions, and a base of passages. Comes out: for each question, the passages in order of how well they fit.

BM25 (Robertson et al., 1994) by bm25s compares words; embeddings compare the means of the model's own hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.encodings import lister
from pipeline.evaluations.bootstrap import Scores, interval
from pipeline.evaluations.figures import Figure

if TYPE_CHECKING:
    import tiktoken

    from model.gpt import GPT

Retriever = Callable[[Sequence[str], Sequence[str]], Iterable[npt.NDArray[np.floating]]]
"""Passages and questions in; out, for some questions after others, how well each passage fits (some, passages)."""

_SCORES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Retrieved:
    """How well passages were found."""

    best: npt.NDArray[np.int64]
    """For each question the places of the passages to read, the best first."""
    ranks: npt.NDArray[np.int64]
    """Of each question's own passage, from 1."""
    n_passages: int
    """Among how many."""

    def figures(self, name: str) -> list[Figure]:
        """Recall among the first and the first five, and the mean reciprocal rank, beside a random order."""
        n_passages, n = self.n_passages, len(self.ranks)
        chance = "passages in random order"
        harmonic = float(sum(1 / rank for rank in range(1, n_passages + 1)))
        scores: list[tuple[str, Scores, float]] = [
            ("recall@1", (self.ranks <= 1).astype(np.float64), 1 / n_passages),
            ("recall@5", (self.ranks <= 5).astype(np.float64), min(5, n_passages) / n_passages),
            ("MRR", 1.0 / self.ranks, harmonic / n_passages),
        ]
        return [Figure(f"{name}: {m}", float(s.mean()), n, *interval(s), base, chance) for m, s, base in scores]


def retrieve(
    retriever: Retriever, passages: Sequence[str], questions: Sequence[str], own: Sequence[str], read: int = 1
) -> Retrieved:
    """Rank the passages for each question, equal ones in their order, and keep the best `read`.

    `own` is the passage that answers a question. ValueError if that is none of them.
    """
    place_of = {passage: place for place, passage in enumerate(passages)}
    wanted = np.asarray([place_of.get(passage, -1) for passage in own], np.int64)
    if (wanted < 0).any():
        raise ValueError("a question's own passage is not among the passages")
    best, ranks, done = [], [], 0
    for scores in retriever(passages, questions):
        ranking = np.argsort(-scores, axis=1, kind="stable").astype(np.int64)
        best.append(ranking[:, :read].copy())  # not a view, which would hold the whole
        ranks.append((ranking == wanted[done : done + len(scores), None]).argmax(axis=1) + 1)
        done += len(scores)
    return Retrieved(np.concatenate(best), np.concatenate(ranks), len(passages))


def bm25(passages: Sequence[str], questions: Sequence[str]) -> Iterator[npt.NDArray[np.floating]]:
    """By the words that both share, rare ones counting more; English words such as "the" count nothing."""
    import logging

    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every step, at whatever level others set
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(passages), stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(questions), stopwords="en", return_ids=False, show_progress=False)
    for some in _some(len(questions), len(passages)):
        yield np.stack(
            [np.asarray(index.get_scores(words)) if words else np.zeros(len(passages)) for words in asked[some]]
        )


def embeddings(model: GPT, encoding: tiktoken.Encoding) -> Retriever:
    """By the cosine between means of hidden states."""

    def scores(passages: Sequence[str], questions: Sequence[str]) -> Iterator[npt.NDArray[np.floating]]:
        of_passages, of_questions = (_embed(model, encoding, texts) for texts in (passages, questions))
        for some in _some(len(questions), len(passages)):
            yield of_questions[some] @ of_passages.T

    return scores


def _some(n_questions: int, n_passages: int) -> Iterator[slice]:
    """Questions whose scores are held at once; those of 10,000 among 100,000 passages would take 8 GB."""
    at_once = max(1, _SCORES_AT_ONCE // n_passages)
    for first in range(0, n_questions, at_once):
        yield slice(first, first + at_once)


def _embed(model: GPT, encoding: tiktoken.Encoding, texts: Sequence[str], batch_size: int = 64) -> Scores:
    """The mean of the hidden states of each text's tokens, of length 1: (texts, width)."""
    import torch
    import torch.nn.functional as F

    model.eval()
    device = model.token_embedding.weight.device
    encode, rows = lister(encoding), []
    for first in range(0, len(texts), batch_size):
        ids = [
            [encoding.eot_token, *encode(text)][: model.config.context_length]
            for text in texts[first : first + batch_size]
        ]
        width = max(map(len, ids))
        ids_BT = torch.tensor([row + [encoding.eot_token] * (width - len(row)) for row in ids], device=device)
        real_BT1 = torch.tensor([[1.0] * len(row) + [0.0] * (width - len(row)) for row in ids], device=device)[
            ..., None
        ]
        with torch.no_grad():
            mean_BD = (model(ids_BT).float() * real_BT1).sum(1) / real_BT1.sum(1)
        rows.append(F.normalize(mean_BD, dim=-1).cpu().numpy())
    return np.concatenate(rows).astype(np.float64)
