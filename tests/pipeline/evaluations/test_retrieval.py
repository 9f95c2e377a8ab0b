"""The passage that answers a question is looked for among all, and how far up it stands is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from model.gpt import GPT, GPTConfig
from pipeline.encodings import encoding_of
from pipeline.evaluations import retrieval
from pipeline.evaluations.retrieval import Retrieved, Retriever, bm25, embeddings, retrieve

PASSAGES = ["The owl lives in the barn.", "The fox likes the meadow.", "A bee and a fox met in the garden."]


def ranked(retriever: Retriever, questions: list[str]) -> np.ndarray:
    """For each question the places of all passages, the best first."""
    return retrieve(retriever, PASSAGES, questions, [PASSAGES[0]] * len(questions), read=len(PASSAGES)).best


def test_bm25_finds_the_passage_with_the_rare_words() -> None:
    """A question's own words decide; one without any word of the passages leaves them in their order."""
    ranking = ranked(bm25, ["Where does the owl live?", "What did bee and fox do in the garden?", "Xyzzy"])
    assert ranking[0, 0] == 0
    assert ranking[1, 0] == 2
    assert ranking[2].tolist() == [0, 1, 2]


def test_every_passage_is_ranked_once() -> None:
    """A ranking is a permutation of the passages, whatever is asked."""
    for row in ranked(bm25, ["fox", "the", "barn meadow garden"]):
        assert sorted(row) == [0, 1, 2]


def test_the_rank_is_that_of_the_passage_that_answers() -> None:
    """Recall counts ranks up to k, and the reciprocal ranks are averaged; chance is a random order."""

    def backwards(passages: Sequence[str], questions: Sequence[str]) -> Iterator[np.ndarray]:
        yield np.asarray([range(len(passages))] * len(questions), np.float64)

    found = retrieve(backwards, PASSAGES, ["a", "b"], [PASSAGES[2], PASSAGES[0]])
    assert found.ranks.tolist() == [1, 3]
    figures = {figure.name: (figure.value, figure.baseline) for figure in found.figures("retrieval")}
    assert figures["retrieval: recall@1"] == (0.5, pytest.approx(1 / 3))
    assert figures["retrieval: recall@5"] == (1.0, 1.0)
    assert figures["retrieval: MRR"] == (pytest.approx((1 + 1 / 3) / 2), pytest.approx((1 + 1 / 2 + 1 / 3) / 3))


@pytest.mark.parametrize("by", ["words", "embeddings"])
def test_some_questions_at_a_time_are_ranked_as_all(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of as many are held as a bound allows, and of the passages in their order as many as are read."""
    encoding = encoding_of({bytes([byte]): byte for byte in range(256)})
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=257, context_length=32, n_layers=1, n_heads=1, d_model=8))
    retriever: Retriever = bm25 if by == "words" else embeddings(model, encoding)
    questions, own = ["fox", "the", "barn meadow", "bee", "owl"], [PASSAGES[n] for n in (1, 0, 2, 2, 0)]
    at_once = retrieve(retriever, PASSAGES, questions, own, read=3)
    monkeypatch.setattr(retrieval, "_SCORES_AT_ONCE", 2 * len(PASSAGES))
    assert [scores.shape for scores in retriever(PASSAGES, questions)] == [(2, 3), (2, 3), (1, 3)]
    found = retrieve(retriever, PASSAGES, questions, own, read=2)
    assert found.best.tolist() == at_once.best[:, :2].tolist()
    assert found.ranks.tolist() == at_once.ranks.tolist()


def test_a_passage_that_is_not_in_the_base_cannot_be_found() -> None:
    """That would be a fault of ours, not a low score."""
    with pytest.raises(ValueError, match="not among the passages"):
        retrieve(bm25, PASSAGES, ["a"], ["elsewhere"])
    assert Retrieved(np.zeros((1, 1), np.int64), np.ones(1, np.int64), 1).figures("r")[0].value == 1.0
