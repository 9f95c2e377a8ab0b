"""What is made small besides the plain cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model.batches import Example, collate
from model.gpt import GPT, IGNORE, GPTConfig
from model.objectives import balanced_weights, distilled, weighted_classes

SMALL = GPTConfig(vocab_size=20, context_length=16, n_layers=1, n_heads=2, d_model=16)


def test_a_rare_class_weighs_as_much_as_a_frequent_one() -> None:
    """Of four hams and one spam each class weighs 2.5 in all, and an example 1 on average."""
    weights = balanced_weights([0, 0, 0, 0, 1], 2)
    assert weights == [0.625, 2.5]


def test_the_weighted_loss_is_the_sum_of_weighted_losses() -> None:
    """Each example's cross-entropy counts its class's weight; with weights of 1 it is the model's own loss."""
    torch.manual_seed(0)
    model = GPT(SMALL).with_classifier(2).eval()
    batch = collate([Example([1, 2, 3], 0), Example([4, 5], 1)], 0)
    assert batch.lengths_B is not None
    losses = [model.loss(batch.ids_BT[i : i + 1], batch.targets[i : i + 1], batch.lengths_B[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(weighted_classes([3.0, 0.5])(model, batch), 3 * losses[0] + 0.5 * losses[1])
    own = model.loss(batch.ids_BT, batch.targets, batch.lengths_B, "sum")
    torch.testing.assert_close(weighted_classes([1.0, 1.0])(model, batch), own)


def test_distillation_is_the_divergence_of_the_softened_choices() -> None:
    """T² · Σ p log(p / q) with p and q softened by T, mixed with the plain loss; ignored targets do not count."""
    torch.manual_seed(0)
    pupil, teacher = GPT(SMALL).eval(), GPT(SMALL)
    batch = collate([Example([1, 2, 3], [IGNORE, 3, 0]), Example([4, 5], [5, 0])], 0)
    places = batch.targets != IGNORE
    p = (teacher.eval().logits(teacher(batch.ids_BT))[places] / 2).softmax(-1)
    q = (pupil.logits(pupil(batch.ids_BT))[places] / 2).softmax(-1)
    soft = 4 * (p * (p / q).log()).sum()
    hard = F.cross_entropy(pupil.logits(pupil(batch.ids_BT))[places], batch.targets[places], reduction="sum")
    torch.testing.assert_close(distilled(teacher, 2.0, 0.25)(pupil, batch), 0.25 * soft + 0.75 * hard)


def test_a_pupil_that_agrees_has_nothing_to_learn() -> None:
    """Under itself as teacher the divergence and its gradient are 0, and the teacher has no gradient at all."""
    torch.manual_seed(0)
    pupil, teacher = GPT(SMALL), GPT(SMALL)
    teacher.load_state_dict(pupil.state_dict())
    loss = distilled(teacher, 3.0, 1.0)(pupil, collate([Example([1, 2, 3], [2, 3, 0])], 0))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    for parameter in pupil.parameters():
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), atol=1e-6, rtol=0)
    assert all(parameter.grad is None for parameter in teacher.parameters())
