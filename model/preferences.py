"""Pairs of responses in, a model that likes the better ones out: DPO.

Direct preference optimisation (Rafailov et al., 2023, https://arxiv.org/abs/2305.18290) needs no reward model. The
loss of a pair is -log σ(margin), where the margin is how much more than the reference, which is the model at the start,
the model prefers the chosen response: β · [(log π(chosen) - log ref(chosen)) - (the same of the rejected one)].

Shape suffixes as in model/gpt.py; P pairs of a batch, so that B is 2 · P: the chosen responses, then the rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batches import Batch, Example, collate, mixed_bits, shuffled
from model.gpt import GPT, IGNORE
from model.training import Objective


@dataclass(frozen=True)
class Pair:
    """One prompt with two responses, of which only the responses have targets."""

    chosen: Example
    """With the response that was liked better."""
    rejected: Example
    """With the other."""


@dataclass(frozen=True, kw_only=True)
class PairBatch(Batch):
    """Pairs for one pass, the chosen rows first."""

    reference_B: Tensor
    """Log-probability of each row's response under the reference, in nats."""

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on another device."""
        return PairBatch(self.ids_BT.to(device), self.targets.to(device), reference_B=self.reference_B.to(device))

    def __len__(self) -> int:
        """Its pairs."""
        return len(self.ids_BT) // 2

    def rows(self, which: slice) -> PairBatch:
        """Some of its pairs, both rows of each."""
        ids, targets, reference = (
            torch.cat([half[which] for half in tensor.chunk(2)])
            for tensor in (self.ids_BT, self.targets, self.reference_B)
        )
        return PairBatch(ids, targets, reference_B=reference)

    def scored(self) -> int:
        """Pairs."""
        return len(self)


@dataclass(frozen=True)
class Pairs:
    """Batches of pairs; each epoch visits every pair once, in another order, which (seed, position) decides."""

    pairs: Sequence[Pair]
    """All of them, in a fixed order."""
    reference: Sequence[tuple[float, float]]
    """What `reference_log_probs` says of each: chosen, rejected."""
    batch_size: int
    """Pairs per batch; the last of an epoch may be smaller."""
    seed: int
    """Another seed, another order."""
    padding_id: int
    """Fills short rows."""

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.pairs) // self.batch_size)

    def __call__(self, position: int) -> PairBatch:
        """The batch after `position` others."""
        epoch, within = divmod(position, len(self))
        numbers = range(within * self.batch_size, min(len(self.pairs), (within + 1) * self.batch_size))
        return self.batch(shuffled(numbers, len(self.pairs), mixed_bits(self.seed, epoch)))

    def batch(self, numbers: Sequence[int]) -> PairBatch:
        """The batch of these pairs."""
        rows = [self.pairs[i].chosen for i in numbers] + [self.pairs[i].rejected for i in numbers]
        plain = collate(rows, self.padding_id)
        reference = [self.reference[i][0] for i in numbers] + [self.reference[i][1] for i in numbers]
        return PairBatch(plain.ids_BT, plain.targets, reference_B=torch.tensor(reference))


def log_probs(model: GPT, batch: Batch) -> Tensor:
    """Log-probability of each row's targets together, (B,), in nats and float32."""
    logits_BTV = model.logits(model(batch.ids_BT))
    nats_BT = F.cross_entropy(logits_BTV.transpose(1, 2), batch.targets, ignore_index=IGNORE, reduction="none")
    return -nats_BT.sum(-1)


@torch.no_grad()
def reference_log_probs(
    model: GPT, pairs: Sequence[Pair], batch_size: int, padding_id: int
) -> list[tuple[float, float]]:
    """What the model, as it stands, says of both responses of every pair; computed once, before it learns."""
    unknown = [(0.0, 0.0)] * len(pairs)
    batches = Pairs(pairs, unknown, batch_size, 0, padding_id)
    device = model.token_embedding.weight.device
    was_training = model.training
    model.eval()
    found: list[tuple[float, float]] = []
    for first in range(0, len(pairs), batch_size):
        numbers = range(first, min(first + batch_size, len(pairs)))
        chosen, rejected = log_probs(model, batches.batch(numbers).to(device)).chunk(2)
        found += zip(chosen.tolist(), rejected.tolist(), strict=True)
    model.train(was_training)
    return found


def preference_loss(log_probs_B: Tensor, reference_B: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The loss and the margin of each pair, (P,) each: the paper's equation 7."""
    chosen_P, rejected_P = (log_probs_B - reference_B).chunk(2)
    margins_P = beta * (chosen_P - rejected_P)
    return -F.logsigmoid(margins_P), margins_P


def preferring(beta: float) -> Objective:
    """The objective of a training on `Pairs`."""

    def objective(model: GPT, batch: Batch) -> Tensor:
        assert isinstance(batch, PairBatch)
        return preference_loss(log_probs(model, batch), batch.reference_B, beta)[0].sum()

    return objective


@dataclass(frozen=True)
class PreferenceScores:
    """How a model sees pairs."""

    loss: float
    """Mean of the pairs' losses."""
    accuracy: float
    """Share of the pairs of which it prefers the chosen response more than the reference does."""
    margin: float
    """Mean of the margins."""


@torch.no_grad()
def preference_scores(model: GPT, pairs: Pairs, beta: float) -> PreferenceScores:
    """Score every pair once. A pair whose margin is 0, as all are at the start, is not preferred."""
    device = model.token_embedding.weight.device
    was_training = model.training
    model.eval()
    losses, margins = [], []
    for position in range(len(pairs)):
        batch = pairs(position).to(device)
        loss_P, margin_P = preference_loss(log_probs(model, batch), batch.reference_B, beta)
        losses.append(loss_P)
        margins.append(margin_P)
    model.train(was_training)
    margin = torch.cat(margins)
    return PreferenceScores(float(torch.cat(losses).mean()), float((margin > 0).float().mean()), float(margin.mean()))
