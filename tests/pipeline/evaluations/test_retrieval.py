"""The passage that answers a question is looked for among all, and how far up it stands is counted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluations.retrieval import Ranking, Retrieved, bm25, retrieve

PASSAGES = ["The owl lives in the barn.", "The fox likes the meadow.", "A bee and a fox met in the garden."]


def test_bm25_finds_the_passage_with_the_rare_words() -> None:
    """A question's own words decide; one without any word of the passages leaves them in their order."""
    ranking = bm25(PASSAGES, ["Where does the owl live?", "What did bee and fox do in the garden?", "Xyzzy"])
    assert ranking[0, 0] == 0
    assert ranking[1, 0] == 2
    assert ranking[2].tolist() == [0, 1, 2]


def test_every_passage_is_ranked_once() -> None:
    """A ranking is a permutation of the passages, whatever is asked."""
    for row in bm25(PASSAGES, ["fox", "the", "barn meadow garden"]):
        assert sorted(row) == [0, 1, 2]


def test_the_rank_is_that_of_the_passage_that_answers() -> None:
    """Recall counts ranks up to k, and the reciprocal ranks are averaged; chance is a random order."""

    def backwards(passages: list[str], questions: list[str]) -> Ranking:
        return np.asarray([range(len(passages))[::-1]] * len(questions))

    found = retrieve(backwards, PASSAGES, ["a", "b"], [PASSAGES[2], PASSAGES[0]])  # type: ignore[arg-type]
    assert found.ranks.tolist() == [1, 3]
    figures = {figure.name: (figure.value, figure.baseline) for figure in found.figures("retrieval")}
    assert figures["retrieval: recall@1"] == (0.5, pytest.approx(1 / 3))
    assert figures["retrieval: recall@5"] == (1.0, 1.0)
    assert figures["retrieval: MRR"] == (pytest.approx((1 + 1 / 3) / 2), pytest.approx((1 + 1 / 2 + 1 / 3) / 3))


def test_a_passage_that_is_not_in_the_base_cannot_be_found() -> None:
    """That would be a fault of ours, not a low score."""
    with pytest.raises(ValueError, match="not among the passages"):
        retrieve(bm25, PASSAGES, ["a"], ["elsewhere"])
    assert Retrieved(np.zeros((1, 1), np.int64), np.ones(1, np.int64)).figures("r")[0].value == 1.0
