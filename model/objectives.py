"""A model and a batch in, the number to make small out, where that is not the plain cross-entropy of `GPT.loss`.

Shape suffixes as in model/gpt.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batches import Batch
from model.gpt import GPT, IGNORE
from model.training import Objective


def balanced_weights(labels: Sequence[int], n_classes: int) -> list[float]:
    """A weight per class, inverse to how often it occurs, which is 1 on average over the examples.

    The rule n / (classes · n_k), as scikit-learn's class_weight="balanced". Every class must occur.
    """
    counts = Counter(labels)
    return [len(labels) / (n_classes * counts[label]) for label in range(n_classes)]


def weighted_classes(weights: Sequence[float]) -> Objective:
    """Cross-entropy of classes, each weighing what `weights` says."""

    def objective(model: GPT, batch: Batch) -> Tensor:
        assert batch.lengths_B is not None
        logits_BN = model.classify(batch.ids_BT, batch.lengths_B)
        return F.cross_entropy(logits_BN, batch.targets, logits_BN.new_tensor(weights), reduction="sum")

    return objective


def distilled(teacher: GPT, temperature: float, share: float) -> Objective:
    """Of the loss `share` is the divergence from what the teacher would say, the rest that from what is right.

    KL(teacher ‖ student) of both models' choices softened by the temperature, times its square, which keeps the
    gradient's size (Hinton et al., 2015, https://arxiv.org/abs/1503.02531). Only positions with a target count.
    """
    teacher.eval().requires_grad_(False)

    def objective(model: GPT, batch: Batch) -> Tensor:
        scored_BT = batch.targets != IGNORE
        with torch.no_grad():
            teacher.to(batch.ids_BT.device)
            theirs_MV = teacher.logits(teacher(batch.ids_BT, documents_BT=batch.documents_BT)[scored_BT])
        ours_MV = model.logits(model(batch.ids_BT, documents_BT=batch.documents_BT)[scored_BT])
        ours, theirs = ((logits_MV / temperature).log_softmax(-1) for logits_MV in (ours_MV, theirs_MV))
        soft = F.kl_div(ours, theirs, reduction="sum", log_target=True)
        hard = F.cross_entropy(ours_MV, batch.targets[scored_BT], reduction="sum")
        return share * temperature**2 * soft + (1 - share) * hard

    return objective
