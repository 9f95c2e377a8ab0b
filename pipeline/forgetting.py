"""Goes in: a model before and after fine-tuning. Comes out: bits per byte on the same held-out text, both times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.manifest import Manifest
from pipeline.shards import map_split

if TYPE_CHECKING:
    from model.gpt import GPT

WINDOWS = 16
"""Windows of the validation split that are scored: 4,000 to 16,000 tokens, in a second or two."""


def bits_per_byte(model: GPT, tokens: Path, manifest: Manifest) -> float:
    """Bits per byte of the first windows of the validation split."""
    from model.scoring import validation_loss

    facts = manifest.facts
    held_out = map_split(tokens, "validation", facts)
    n_tokens = min(len(held_out), (WINDOWS + 1) * model.config.context_length)
    score = validation_loss(
        model, np.asarray(held_out[:n_tokens]), start_id=int(facts["end_of_text"]), max_windows=WINDOWS
    )
    bytes_per_token = facts["n_bytes"]["validation"] / facts["n_tokens"]["validation"]
    return float(score.loss / math.log(2) / bytes_per_token)


def as_language_model(tuned: GPT, before: GPT) -> GPT:
    """The fine-tuned trunk under the head of the language model it was made from, where it has another head now."""
    from model.gpt import GPT

    if not tuned.config.n_classes:
        return tuned
    model = GPT(before.config)
    head = {name: value for name, value in before.state_dict().items() if name.startswith("head.")}
    trunk = {name: value for name, value in tuned.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict(trunk | head)
    return model
