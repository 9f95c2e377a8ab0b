"""The card is Markdown, whatever the model wrote."""

from __future__ import annotations

import pytest

from pipeline import model_card
from pipeline.manifest import Manifest

TOKENS = Manifest(
    "tokens",
    {},
    {"documents": "d" * 64},
    {
        "vocab_size": 512,
        **{name: {"train": 9, "validation": 1} for name in ("n_documents", "n_bytes", "n_tokens")},
    },
    {},
)
CHECKPOINT = Manifest("checkpoint", {}, {}, {"n_parameters": 1234}, {})
DESCRIPTION = {"name": "base", "task": "language-model", "labels": []}


@pytest.mark.parametrize("written", ["plain", "a\n```\n# Not a heading\n", "````text ```` and `code`"])
def test_a_sample_cannot_close_its_block(written: str) -> None:
    """Between the fences stands the sample, and no line of it is as long a fence."""
    samples = [{"prompt": "Once", "response": written}]
    card = model_card.render(DESCRIPTION, CHECKPOINT, TOKENS, {"n": 1, "data": "0" * 64, "bits": 1.5}, samples)
    block = card.partition("## Samples\n\n")[2].partition("\n\n## Beware")[0]
    opening, _, rest = block.partition("\n")
    text, _, closing = rest.rpartition("\n")
    assert text == "Once" + written
    assert opening == closing + "text" and set(closing) == {"`"} and closing not in text


def test_no_held_out_text_is_in_a_card() -> None:
    """Of four samples the two that continue a prompt are shown; of the others it says where they are."""
    samples = [
        {"prompt": "Jane, call me on 555 0100", "response": "ham", "expected": "ham"},
        {"prompt": "Once", "response": " there was a hen."},
        {"prompt": "Name the animal.", "response": "cat", "expected": "dog"},
        {"prompt": "The cat", "response": " sleeps."},
    ]
    card = model_card.render(DESCRIPTION, CHECKPOINT, TOKENS, {"n": 1, "data": "0" * 64, "bits": 1.5}, samples)
    shown = card.partition("## Samples\n\n")[2].partition("\n\n## Beware")[0].splitlines()
    assert shown[:-1] == ["```text", "Once there was a hen.", "```", "```text", "The cat sleeps.", "```"]
    assert shown[-1].startswith("What it answered to held-out texts stands in the report of the run")
    assert not any(sample["prompt"] in card for sample in samples if "expected" in sample)
