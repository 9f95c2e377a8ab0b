"""Goes in: a checkpoint, its vocabulary and its figures. Comes out: one folder with all that using it takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import encodings, model_card
from pipeline.encodings import RANKS_FILE
from pipeline.errors import GateError
from pipeline.evaluations.figures import METRICS_FILE, SAMPLES_FILE
from pipeline.exporters import huggingface
from pipeline.loaded_model import DESCRIPTION_FILE
from pipeline.manifest import commit, verify
from pipeline.report import Report
from pipeline.training_run import model_errors

READS = {
    "checkpoint": "data/checkpoints/${name}",
    "tokens": "data/tokens",
    "evaluation": "data/evaluations/${name}",
}
WRITES = {"export": "data/exports/${name}"}


@dataclass(frozen=True)
class Params:
    """What leaves the house."""

    format: Literal["huggingface"]
    """The layout of the folder."""


def run(
    params: Params, *, checkpoint: Path, tokens: Path, evaluation: Path, export: Path, name: str, report: Report
) -> None:
    """Write weights, configuration, tokenizer, model card and a description that says how the model is to be asked."""
    from model.checkpoint import load_model
    from model.templates import template_of

    made, vocabulary, judged = verify(checkpoint), verify(tokens), verify(evaluation)
    ranks, pattern = encodings.read_ranks(tokens / RANKS_FILE), encodings.pattern_of(tokens / RANKS_FILE)
    end_of_text = int(vocabulary.facts["end_of_text"])
    description: dict[str, Any] = {
        "name": name,
        "task": made.facts.get("task", "language-model"),
        "template": made.facts.get("template_parts"),
        "labels": made.facts.get("labels", []),
        "end_of_text": end_of_text,
    }
    classifies = description["task"] == "classification"
    metrics = json.loads((evaluation / METRICS_FILE).read_text(encoding="utf-8"))
    for key, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise GateError(f"export: {name}: {key} is {value}; a model without a figure does not leave the house")
    samples = json.loads((evaluation / SAMPLES_FILE).read_text(encoding="utf-8"))
    inputs = {"checkpoint": made.digest, "tokens": vocabulary.digest, "evaluation": judged.digest}
    with commit(export, "export", params=params, inputs=inputs) as draft:
        with model_errors(f"export@{name}"):
            model = load_model(checkpoint)
            huggingface.write_model(model, draft.path, end_of_text=end_of_text, labels=description["labels"])
        huggingface.write_tokenizer(
            ranks,
            draft.path,
            context_length=model.config.context_length,
            pattern=pattern,
            begins=classifies,
            chat_template=template_of(description["template"]).chat_template() if description["template"] else None,
        )
        encodings.write_ranks(ranks, draft.path / RANKS_FILE, pattern)
        (draft.path / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        card = model_card.render(description, made, vocabulary, metrics, samples)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
        draft.facts |= {"name": name, "task": description["task"], "metrics": metrics}
    size_bytes = sum(file.stat().st_size for file in export.iterdir())
    report.metrics({"size_bytes": size_bytes})
    report.note(f"{name}: {size_bytes / 1e6:,.1f} MB in {export}")
