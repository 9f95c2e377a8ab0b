"""Goes in: a model before and after fine-tuning. Comes out: bits per byte on the same held-out text, both times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.held_out import HeldOut
from pipeline.manifest import Manifest

if TYPE_CHECKING:
    from model.gpt import GPT

WINDOWS = 16
"""Windows of the validation split that are scored: 2,000 to 9,000 tokens, in a second or two."""


def bits_per_byte(model: GPT, tokens: Path, manifest: Manifest) -> float:
    """Bits per byte of windows all over the validation split."""
    return HeldOut(tokens, manifest, windows=WINDOWS).look(model)["bits_per_byte"]


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
