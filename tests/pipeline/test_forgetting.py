"""What a model knew before is measured again after, on the same text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.checkpoint import load_model
from model.scoring import validation_loss
from pipeline.forgetting import as_language_model, bits_per_byte
from pipeline.shards import map_split


def test_it_is_the_figure_that_evaluation_gives(made: Any) -> None:
    """Where the validation split is short, its bits per byte are those of the whole split."""
    model = load_model(made.path("checkpoints/base"))
    manifest = made.manifest("tokens")
    facts = manifest.facts
    tokens = map_split(made.path("tokens"), "validation", facts)
    score = validation_loss(model, tokens, start_id=299)
    expected = score.bits_per_byte(facts["n_bytes"]["validation"])
    assert bits_per_byte(model, made.path("tokens"), manifest) == pytest.approx(expected)


def test_a_classifier_is_asked_under_the_old_head(made: Any) -> None:
    """The classifier's trunk with the base's head is a language model; a language model stays itself."""
    base, spam = (load_model(made.path(f"checkpoints/{name}")) for name in ("base", "spam"))
    writer = as_language_model(spam, base)
    assert writer.config == base.config
    assert torch.equal(writer.head_weight(), base.head_weight())
    assert torch.equal(writer.blocks[0].mlp.up.weight, spam.blocks[0].mlp.up.weight)
    assert as_language_model(base, base) is base
