"""Scores: each token counts once, and the classifier's figures are those of a hand-made table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from model.gpt import GPT, GPTConfig
from model.scoring import classification_scores, predict_classes, scored_tokens, token_nats, validation_loss

TOKENS = np.random.default_rng(0).integers(0, 30, 50).astype(np.uint16)


@pytest.fixture
def model() -> GPT:
    """A small model with a context of 12."""
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=31, context_length=12, n_layers=1, n_heads=2, d_model=16)).eval()


@pytest.mark.parametrize("stride", [1, 5, 6, 11, 12, None])
@pytest.mark.parametrize("n", [1, 11, 12, 13, 17, 18, 50])
def test_each_token_is_scored_exactly_once(n: int, stride: int | None, model: GPT) -> None:
    """A model that thinks all 31 tokens equally likely needs log 31 nats for each of n tokens, at every stride."""
    model.token_embedding.weight.data.zero_()
    score = validation_loss(model, TOKENS[:n], start_id=30, stride=stride, batch_size=3)
    assert score.tokens == n
    assert score.nats == pytest.approx(n * math.log(31), rel=1e-5)


@torch.no_grad()
def test_a_text_within_the_context_is_scored_as_it_is_read(model: GPT) -> None:
    """Twelve tokens after the start token: the sum of their log-probabilities, one by one."""
    row = [30, *TOKENS[:12].tolist()]
    log_p = model.logits(model(torch.tensor([row[:-1]])))[0].log_softmax(-1)
    by_hand = -sum(float(log_p[i, token]) for i, token in enumerate(row[1:]))
    assert validation_loss(model, TOKENS[:12], start_id=30).nats == pytest.approx(by_hand, rel=1e-5)


@torch.no_grad()
def test_with_stride_one_every_token_has_all_the_context_there_is(model: GPT) -> None:
    """Scoring one token per window equals predicting each from the twelve before it."""
    row = [30, *TOKENS[:20].tolist()]
    by_hand = 0.0
    for i in range(1, 21):
        before = torch.tensor([row[max(0, i - 12) : i]])
        by_hand -= float(model.logits(model(before))[0, -1].log_softmax(-1)[row[i]])
    assert validation_loss(model, TOKENS[:20], start_id=30, stride=1).nats == pytest.approx(by_hand, rel=1e-5)


def test_the_batch_size_does_not_change_the_score(model: GPT) -> None:
    """Windows scored one by one or seven at a time add up to the same."""
    one, seven = (validation_loss(model, TOKENS, start_id=30, batch_size=size) for size in (1, 7))
    assert one.tokens == seven.tokens and one.nats == pytest.approx(seven.nats, rel=1e-6)


def test_the_nats_of_each_token_add_up(model: GPT) -> None:
    """Token by token it is the same score, and within the first context it is that of reading the beginning alone."""
    each = token_nats(model, TOKENS, start_id=30, batch_size=3)
    assert each.shape == TOKENS.shape
    assert float(each.sum()) == pytest.approx(validation_loss(model, TOKENS, start_id=30).nats, rel=1e-5)
    assert float(each[:7].sum()) == pytest.approx(validation_loss(model, TOKENS[:7], start_id=30).nats, rel=1e-5)


@pytest.mark.parametrize(
    ("most", "scored"),
    [
        (1, [*range(12)]),
        (2, [*range(12), 48, 49]),
        (3, [*range(12), *range(24, 30), 48, 49]),
        (7, [*range(42), 48, 49]),
        (8, [*range(50)]),
        (9, [*range(50)]),
        (None, [*range(50)]),
    ],
)
def test_some_windows_lie_evenly_over_the_text(model: GPT, most: int | None, scored: list[int]) -> None:
    """The first and the last are among them, and each scores what it scores among all."""
    each = token_nats(model, TOKENS, start_id=30)
    score = validation_loss(model, TOKENS, start_id=30, max_windows=most)
    assert (score.tokens, score.nats) == (len(scored), pytest.approx(float(each[scored].sum()), rel=1e-5))
    assert np.concatenate([*scored_tokens(TOKENS, 12, most)]).tolist() == TOKENS[scored].tolist()


def test_a_look_reads_no_more_than_its_windows(model: GPT) -> None:
    """Of a row that lies on a disk the windows alone are read, a batch at a time."""
    read: list[int] = []

    class Row:
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, where: slice) -> Any:
            read.append(where.stop - where.start)
            return np.zeros(where.stop - where.start, np.uint16)

    validation_loss(model, Row(), start_id=30, max_windows=5)
    assert max(read) == 13 and len(read) == 5


def test_scoring_leaves_the_model_in_its_mode(model: GPT) -> None:
    """Scoring in the middle of training does not switch dropout off for good."""
    model.train()
    validation_loss(model, TOKENS, start_id=30)
    assert model.training


def test_bits_per_byte_and_perplexity(model: GPT) -> None:
    """A token of log 31 nats over 4 bytes is log2(31)/4 bits a byte and a perplexity of 31."""
    model.token_embedding.weight.data.zero_()
    score = validation_loss(model, TOKENS, start_id=30)
    assert score.bits_per_byte(4 * 50) == pytest.approx(math.log2(31) / 4, rel=1e-5)
    assert score.perplexity == pytest.approx(31, rel=1e-4)


def test_nothing_to_score_is_refused(model: GPT) -> None:
    """An empty text has no loss, and a stride beyond the context would leave tokens out."""
    with pytest.raises(ValueError, match="no tokens to score"):
        validation_loss(model, TOKENS[:0], start_id=30)
    with pytest.raises(ValueError, match="stride is 13"):
        validation_loss(model, TOKENS, start_id=30, stride=13)


def test_classification_figures() -> None:
    """Five messages, one ham taken for spam and one spam missed: the figures a child could count."""
    logits = torch.tensor([[2.0, 0], [3, 0], [0, 1], [0, 2], [1, 0]])
    scores = classification_scores(logits, [0, 0, 0, 1, 1])
    assert scores.confusion == ((2, 1), (1, 1))
    assert scores.n == 5 and scores.accuracy == 0.6
    assert scores.f1_by_class == (pytest.approx(2 / 3), 0.5)
    assert scores.f1 == pytest.approx((2 / 3 + 0.5) / 2)
    expected = -sum(logits.log_softmax(-1)[i, label].item() for i, label in enumerate([0, 0, 0, 1, 1])) / 5
    assert scores.loss == pytest.approx(expected)


def test_a_class_that_never_occurs_has_no_f1() -> None:
    """A class neither true nor predicted counts 0, not a division by zero."""
    assert classification_scores(torch.tensor([[1.0, 0, 0]]), [0]).f1_by_class == (1.0, 0.0, 0.0)


def test_labels_the_model_cannot_know_are_refused() -> None:
    """A label beyond the classes, or rows without labels, is an error and not a wrong figure."""
    with pytest.raises(ValueError, match="labels run from 0 to 2, but the model has 2 classes"):
        classification_scores(torch.zeros(2, 2), [0, 2])
    with pytest.raises(ValueError, match="0 rows of scores for 0 labels"):
        classification_scores(torch.zeros(0, 2), [])


def test_classes_of_rows_of_any_length(model: GPT) -> None:
    """Rows of unequal length, batched, score as they do alone."""
    classifier = model.with_classifier(3)
    texts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [2, 2]]
    together = predict_classes(classifier, texts, batch_size=3)
    alone = torch.cat([predict_classes(classifier, [text]) for text in texts])
    torch.testing.assert_close(together, alone)
