"""Goes in: what is known of a model. Comes out: its card in Markdown, the same text for the same model.

A card goes wherever its model goes, so nobody's record is quoted in it: of the samples it shows those that continue a
prompt of `evaluate.prompts`, and none that answers a held-out text.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.manifest import Manifest

_PURPOSE = {
    "language-model": "It continues text in the manner of the documents it was trained on.",
    "instructions": "It answers short instructions of the kinds it was fine-tuned on.",
    "preferences": "It answers in the way that people preferred of two.",
    "classification": "It sorts a message into one of: {labels}.",
}
_SHOWN = 4


def render(
    description: dict[str, Any],
    checkpoint: Manifest,
    tokens: Manifest,
    metrics: dict[str, Any],
    samples: list[dict[str, str]],
) -> str:
    """The card: what the model is, how it scored and on what, what it was made of, how to use it, what to beware of."""
    name, task = description["name"], description["task"]
    facts = tokens.facts
    purpose = _PURPOSE[task].format(labels=", ".join(description["labels"]))
    figures = {k: v for k, v in metrics.items() if isinstance(v, float)}
    lines = [
        f"# {name}",
        "",
        f"A decoder of {checkpoint.facts['n_parameters']:,} parameters with a vocabulary of {facts['vocab_size']:,}. "
        + purpose,
        "",
        "## Figures",
        "",
        f"On {metrics['n']:,} held-out {'tokens' if task == 'language-model' else 'test examples'}, "
        f"data `{metrics['data'][:16]}`:",
        "",
        "| Metric | Value |",
        "|---|---|",
        *(f"| {key} | {value:.4g} |" for key, value in figures.items()),
        "",
        "## Made of",
        "",
        f"- text: {facts['n_documents']['train']:,} documents, {facts['n_bytes']['train']:,} bytes, "
        f"{facts['n_tokens']['train']:,} tokens; {facts['n_documents']['validation']:,} documents were held out",
        f"- documents `{tokens.inputs['documents'][:16]}`",
        f"- tokens `{tokens.digest[:16]}`",
        f"- checkpoint `{checkpoint.digest[:16]}`",
        "",
        "## Samples",
        "",
        *_samples(samples),
        "",
        "## Beware",
        "",
        "A model of this size states falsehoods fluently and may repeat its training text. Its scores hold for data "
        "like that it was tested on. Check its licence against those of its documents before you pass it on.",
        "",
    ]
    return "\n".join(lines)


def _samples(samples: list[dict[str, str]]) -> list[str]:
    """The first few continuations, or where the answers are; only what answers a held-out text has one expected."""
    continued = [sample for sample in samples if "expected" not in sample]
    lines = [line for sample in continued[:_SHOWN] for line in _block(sample["prompt"] + sample["response"])]
    if len(continued) < len(samples):
        lines.append(
            "What it answered to held-out texts stands in the report of the run, `data/reports/run/index.html`, and "
            "does not leave with the model."
        )
    return lines


def _block(text: str) -> list[str]:
    """Lines of text as it is, in a fence longer than any that the text holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}text", text, fence]
