"""A model and held-out tokens or texts in, figures out: nats, bits per byte, accuracy, F1, confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batches import Example, collate
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
    tokens: npt.NDArray[np.integer],
    *,
    start_id: int,
    stride: int | None = None,
    batch_size: int = 16,
    max_windows: int | None = None,
) -> TokenScore:
    """Score every token exactly once, in windows of the model's context that overlap.

    The first token is predicted from `start_id` (the end-of-text that precedes a document). Each later window moves on
    by `stride` tokens (half a context unless given) and scores only those that no earlier window did, so all but the
    first have at least context_length - stride tokens before them. `max_windows` scores only the beginning.
    """
    device = model.token_embedding.weight.device
    was_training = model.training
    model.eval()
    nats, scored = 0.0, 0
    for examples in _windows(tokens, start_id, model.config.context_length, stride, batch_size, max_windows):
        batch = collate(examples, start_id).to(device)
        nats += float(
            linear_cross_entropy(model(batch.ids_BT).flatten(0, 1), model.head_weight(), batch.targets.flatten())
        )
        scored += batch.scored()
    model.train(was_training)
    return TokenScore(nats, scored)


@torch.no_grad()
def token_nats(
    model: GPT, tokens: npt.NDArray[np.integer], *, start_id: int, batch_size: int = 16
) -> npt.NDArray[np.float32]:
    """-log p of every token, (len(tokens),), in the windows of `validation_loss`: its sum is that function's nats."""
    device = model.token_embedding.weight.device
    was_training = model.training
    model.eval()
    # One array, written as it goes: a small one kept of each row would pin the heap between the rows' large logits,
    # which then grew to 8.8 GB over 840,000 tokens.
    found = np.empty(len(tokens), np.float32)
    done = 0
    for examples in _windows(tokens, start_id, model.config.context_length, None, batch_size, None):
        batch = collate(examples, start_id).to(device)
        # A row of logits at a time: those of a whole batch would take gigabytes at a large vocabulary.
        for hidden_TD, targets_T in zip(model(batch.ids_BT), batch.targets, strict=True):
            own = targets_T[scored := targets_T != IGNORE]
            nats = F.cross_entropy(model.logits(hidden_TD[scored]).float(), own, reduction="none")
            found[done : done + len(own)] = nats.cpu().numpy()
            done += len(own)
    model.train(was_training)
    return found


def _windows(
    tokens: npt.NDArray[np.integer],
    start_id: int,
    context: int,
    stride: int | None,
    batch_size: int,
    max_windows: int | None,
) -> Iterator[list[Example]]:
    """Batches of overlapping windows that have every token as a target once; errors as in `validation_loss`."""
    if len(tokens) == 0:
        raise ValueError("there are no tokens to score")
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride is {stride}, but must be between 1 and the context length {context}")
    row = np.concatenate([[start_id], np.asarray(tokens)]).astype(np.int64)
    ends = [*range(min(context, len(tokens)), len(tokens), stride), len(tokens)]
    ends = ends[:max_windows]
    for first in range(0, len(ends), batch_size):
        examples = []
        for number in range(first, min(first + batch_size, len(ends))):
            end, done = ends[number], ends[number - 1] if number else 0
            start = max(0, end - context)
            targets = row[start + 1 : end + 1].copy()
            targets[: done - start] = IGNORE
            examples.append(Example(row[start:end].tolist(), targets.tolist()))
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
