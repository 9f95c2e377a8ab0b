"""A model and held-out tokens or texts in, figures out: nats, bits per byte, accuracy, F1, confusion matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batches import Example, Tokens, collate
from model.cross_entropy import linear_cross_entropy
from model.gpt import GPT, IGNORE


@dataclass(frozen=True)
class TokenScore:
    """How well a model predicted a text."""

    nats: float
    """Sum of -log p over all scored tokens."""
    tokens: int
    """How many were scored."""

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss), in the model's own tokens."""
        return math.exp(min(self.loss, 700.0))

    def bits_per_byte(self, n_bytes: int) -> float:
        """Bits needed per byte of the original UTF-8 text: comparable between vocabularies."""
        return self.nats / math.log(2) / n_bytes


@torch.no_grad()
def validation_loss(
    model: GPT,
    tokens: Tokens,
    *,
    start_id: int,
    stride: int | None = None,
    batch_size: int = 16,
    max_windows: int | None = None,
) -> TokenScore:
    """Score every token exactly once, in windows of the model's context that overlap; read only as they are scored.

    The first token is predicted from `start_id` (the end-of-text that precedes a document). Each later window moves on
    by `stride` tokens (half a context unless given) and scores only those that no earlier window did, so all but the
    first have at least context_length - stride tokens before them. Of more than `max_windows` so many are scored, the
    first and the last among them, evenly spaced.
    """
    device = model.token_embedding.weight.device
    was_training = model.training
    model.eval()
    nats, scored = 0.0, 0
    windows = _Windows(len(tokens), model.config.context_length, stride)
    for examples in _examples(tokens, start_id, windows.chosen(max_windows), batch_size):
        batch = collate(examples, start_id).to(device)
        nats += float(
            linear_cross_entropy(model(batch.ids_BT).flatten(0, 1), model.head_weight(), batch.targets.flatten())
        )
        scored += batch.scored()
    model.train(was_training)
    return TokenScore(nats, scored)


@torch.no_grad()
def token_nats(model: GPT, tokens: Tokens, *, start_id: int, batch_size: int = 16) -> npt.NDArray[np.float32]:
    """-log p of every token, (len(tokens),), in the windows of `validation_loss`: its sum is that function's nats."""
    device = model.token_embedding.weight.device
    was_training = model.training
    model.eval()
    # One array, written as it goes: a small one kept of each row would pin the heap between the rows' large logits,
    # which then grew to 8.8 GB over 840,000 tokens.
    found = np.empty(len(tokens), np.float32)
    done = 0
    windows = _Windows(len(tokens), model.config.context_length)
    for examples in _examples(tokens, start_id, windows.chosen(), batch_size):
        batch = collate(examples, start_id).to(device)
        # A row of logits at a time: those of a whole batch would take gigabytes at a large vocabulary.
        for hidden_TD, targets_T in zip(model(batch.ids_BT), batch.targets, strict=True):
            own = targets_T[scored := targets_T != IGNORE]
            nats = F.cross_entropy(model.logits(hidden_TD[scored]).float(), own, reduction="none")
            found[done : done + len(own)] = nats.cpu().numpy()
            done += len(own)
    model.train(was_training)
    return found


def scored_tokens(
    tokens: Tokens, context_length: int, max_windows: int | None = None
) -> Iterator[npt.NDArray[np.integer]]:
    """The tokens that `validation_loss` scores, window by window, to count what else is to be known of them."""
    for _, done, end in _Windows(len(tokens), context_length).chosen(max_windows):
        yield np.asarray(tokens[done:end])


class _Windows:
    """Overlapping windows over so many tokens, each of which is scored in one; errors as in `validation_loss`."""

    def __init__(self, n_tokens: int, context: int, stride: int | None = None) -> None:
        if n_tokens == 0:
            raise ValueError("there are no tokens to score")
        self._n_tokens, self._context = n_tokens, context
        self._stride = max(1, context // 2) if stride is None else stride
        if not 1 <= self._stride <= context:
            raise ValueError(f"stride is {stride}, but must be between 1 and the context length {context}")

    def chosen(self, most: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Where windows begin, where the tokens begin that they score, where they end: of all, or `most` of them."""
        n = 1 + -(-max(0, self._n_tokens - self._context) // self._stride)
        few = most is not None and most < n
        numbers = (i * (n - 1) // max(1, most - 1) for i in range(most)) if few and most else range(n)
        for number in numbers:
            end = min(self._context + number * self._stride, self._n_tokens)
            done = self._context + (number - 1) * self._stride if number else 0
            yield max(0, end - self._context), done, end


def _examples(
    tokens: Tokens, start_id: int, windows: Iterable[tuple[int, int, int]], batch_size: int
) -> Iterator[list[Example]]:
    """Batches of windows that have the tokens they score as targets, and the one before each as input."""
    windows = iter(windows)
    while batch := list(itertools.islice(windows, batch_size)):
        examples = []
        for start, done, end in batch:
            row = np.asarray(tokens[max(0, start - 1) : end]).astype(np.int64)
            if start == 0:
                row = np.concatenate([[start_id], row])
            targets = row[1:].copy()
            targets[: done - start] = IGNORE
            examples.append(Example(row[:-1].tolist(), targets.tolist()))
        yield examples


@torch.no_grad()
def predict_classes(model: GPT, texts: Sequence[Sequence[int]], batch_size: int = 32, padding_id: int = 0) -> Tensor:
    """Class scores (rows, classes) in float32 on the CPU, of token rows of any length up to the context."""
    was_training = model.training
    model.eval()
    device = model.token_embedding.weight.device
    scores = []
    for first in range(0, len(texts), batch_size):
        examples = [Example(list(ids), 0) for ids in texts[first : first + batch_size]]
        batch = collate(examples, padding_id).to(device)
        assert batch.lengths_B is not None
        scores.append(model.classify(batch.ids_BT, batch.lengths_B).cpu())
    model.train(was_training)
    return torch.cat(scores) if scores else torch.empty(0, model.config.n_classes)


@dataclass(frozen=True)
class ClassificationScores:
    """How well a classifier did; with classes that never occur, F1 is 0 for them, as in scikit-learn."""

    n: int
    """Texts judged."""
    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Share that was right."""
    f1: float
    """Mean of the classes' F1."""
    f1_by_class: tuple[float, ...]
    """Harmonic mean of precision and recall of each class; the last of two is the binary F1."""
    confusion: tuple[tuple[int, ...], ...]
    """Row: true class; column: predicted class; entry: how many."""


def classification_scores(logits_NK: Tensor, labels: Sequence[int]) -> ClassificationScores:
    """Figures of class scores against the true labels; raises ValueError on no rows or a label out of range."""
    n, n_classes = logits_NK.shape
    if n == 0 or n != len(labels):
        raise ValueError(f"{n} rows of scores for {len(labels)} labels")
    if min(labels) < 0 or max(labels) >= n_classes:
        raise ValueError(f"labels run from {min(labels)} to {max(labels)}, but the model has {n_classes} classes")
    truth = torch.tensor(list(labels))
    predicted = logits_NK.argmax(-1)
    confusion = torch.bincount(truth * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)
    hits = confusion.diagonal()
    sizes = confusion.sum(0) + confusion.sum(1)
    f1_by_class = [2 * int(hit) / int(size) if size else 0.0 for hit, size in zip(hits, sizes, strict=True)]
    return ClassificationScores(
        n=n,
        loss=float(F.cross_entropy(logits_NK, truth)),
        accuracy=int(hits.sum()) / n,
        f1=sum(f1_by_class) / n_classes,
        f1_by_class=tuple(f1_by_class),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )
