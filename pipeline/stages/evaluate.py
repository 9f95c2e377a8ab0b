"""Goes in: a model and the data it never trained on. Comes out: its figures as JSON, as plots, and samples to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.documents import Question, read_records
from pipeline.encodings import RANKS_FILE, load_encoding
from pipeline.evaluations import (
    classification,
    exact_match,
    generation,
    perplexity,
    question_answering,
    retrieval,
    summarisation,
    translation,
)
from pipeline.evaluations.answering import Asking
from pipeline.evaluations.figures import METRICS_FILE, SAMPLES_FILE, Figure, Figures
from pipeline.instruction_rows import InstructionRow, instruction_rows
from pipeline.manifest import Manifest, commit, verify
from pipeline.params import Compute
from pipeline.pictures import draw_confusion, draw_reliability
from pipeline.processor import fits_a_half, processor
from pipeline.report import Report
from pipeline.shards import map_split
from pipeline.tables import write_csv
from pipeline.training_run import SCRATCH, device_of, model_errors

if TYPE_CHECKING:
    import tiktoken

    from model.gpt import GPT

READS = {"checkpoint": "data/checkpoints/${name}", "tokens": "data/tokens", "examples": "data/examples/clean"}
WRITES = {"evaluation": "data/evaluations/${name}"}


@dataclass(frozen=True)
class Params:
    """What to look at beyond the scores."""

    prompts: tuple[str, ...]
    """Texts for the language models to continue, to be read by people."""
    sample_tokens: int
    """Tokens to write for each prompt."""
    seed: int
    """Decides what is drawn while writing."""
    summaries: tuple[str, ...] = ()
    """Data sets of instructions that ask for a summary: scored by ROUGE, where the others are by exact match."""
    retriever: Literal["bm25", "embeddings"] = "bm25"
    """How passages are found for a question: by the words they share, or by the model's own hidden states."""
    passages_read: int = 1
    """How many of the passages that were found the model reads before it answers a question."""

    def __post_init__(self) -> None:
        if self.passages_read < 1:
            raise ValueError("passages_read must be at least 1")


def run(
    params: Params,
    *,
    checkpoint: Path,
    tokens: Path,
    examples: Path,
    evaluation: Path,
    compute: Compute,
    name: str,
    report: Report,
) -> None:
    """Score the model in every way that fits what it is for."""
    import torch

    from model.checkpoint import load_model

    made = verify(checkpoint)
    manifests = {"tokens": verify(tokens), "examples": verify(examples)}
    encoding = load_encoding(tokens / RANKS_FILE)
    device = device_of(compute)
    small = fits_a_half(int(made.facts["n_parameters"]), device.type, compute)
    with model_errors(f"evaluate@{name}"), processor(report, compute, half=small) as threads:
        torch.set_num_threads(threads)
        model = load_model(checkpoint).to(device)
        found: list[Figures] = []
        spoken: Figures | None = None
        task = made.facts.get("task", "language-model")
        if task == "classification":
            found.append(
                classification.evaluate(
                    model,
                    examples,
                    encoding=encoding,
                    labels=list(made.facts["labels"]),
                    datasets=made.facts.get("datasets", []),
                    name=name,
                )
            )
        else:
            if task in ("instructions", "preferences"):
                # What a model learned to prefer says nothing of what it can be asked, so that one is asked everything.
                asked = made.facts.get("datasets", []) if task == "instructions" else []
                found += _by_kind(params, _asking(model, encoding, made), examples, asked)
            spoken = perplexity.evaluate(
                model,
                tokens,
                manifests["tokens"],
                prompts=params.prompts,
                sample_tokens=params.sample_tokens,
                seed=params.seed,
            )
            found.append(spoken)
        metrics = {key: value for figures in reversed(found) for key, value in figures.metrics.items()}
        # Of a model that was taught a task, how well it still speaks is no application of it: a metric, but no line.
        shown = found if task == "language-model" else [figures for figures in found if figures is not spoken]
        table = [replace(figure, data=figures.data) for figures in shown for figure in figures.table]
        if task == "language-model":
            measured, more = _written(params, model, encoding, tokens, manifests["tokens"])
            metrics |= measured
            table += more
    decisive = found[0]
    with commit(
        evaluation,
        "evaluation",
        params=params,
        inputs={"checkpoint": made.digest, **{key: manifest.digest for key, manifest in manifests.items()}},
    ) as draft:
        _write_json(
            draft.path / METRICS_FILE, {**decisive.to_dict(), **metrics, "table": [asdict(figure) for figure in table]}
        )
        _write_json(draft.path / SAMPLES_FILE, [sample for figures in found for sample in figures.samples])
        if decisive.confusion:
            rows = [
                {"actual": decisive.labels[y], "predicted": decisive.labels[x]}
                for y, row in enumerate(decisive.confusion)
                for x, count in enumerate(row)
                for _ in range(count)
            ]
            write_csv(rows, ("actual", "predicted"), draft.path / "confusion.csv")
            picture = SCRATCH / f"evaluate@{name}-confusion.png"
            draw_confusion(decisive.confusion, decisive.labels, f"{name}: {decisive.n:,} test messages", picture)
            report.keep(picture)
            bins = [(each.confidence, each.accuracy, each.n) for each in decisive.reliability]
            picture = SCRATCH / f"evaluate@{name}-reliability.png"
            draw_reliability(bins, f"{name}: how sure, how right", picture)
            report.keep(picture)
    report.metrics(metrics)
    report.keep(evaluation / SAMPLES_FILE)
    report.note(f"{name}: " + " · ".join(f"{key} {value:.4g}" for key, value in metrics.items()))


def _asking(model: GPT, encoding: tiktoken.Encoding, made: Manifest) -> Asking:
    from model.templates import template_of

    return Asking(model, encoding, template_of(made.facts.get("template_parts", made.facts["template"])))


def _by_kind(params: Params, asking: Asking, examples: Path, datasets: Sequence[str]) -> list[Figures]:
    """The evaluations that fit what the model was taught, each of the test rows of its kind; the first decides."""
    rows = list(instruction_rows(examples, datasets))

    def of(kind: str, split: str = "test", *, summaries: bool = False) -> list[InstructionRow]:
        return [
            row
            for row in rows
            if (row.kind, row.split, row.dataset in params.summaries) == (kind, split, summaries)
        ]  # fmt: skip

    found = []
    if test := of("instructions"):
        found.append(exact_match.evaluate(asking, test, of("instructions", "train")))
    if test := of("translations"):
        found.append(translation.evaluate(asking, test))
    if test := of("instructions", summaries=True):
        found.append(summarisation.evaluate(asking, test))
    if test := [row for row in of("questions") if row.input]:
        everything = read_records(examples / "questions.parquet", Question)
        base = {q.passage: None for q in everything if q.passage and (not datasets or q.dataset in datasets)}
        search: retrieval.Retriever = retrieval.bm25
        if params.retriever == "embeddings":
            search = retrieval.embeddings(asking.model, asking.encoding)
        found.append(question_answering.evaluate(asking, test, list(base), retriever=search, read=params.passages_read))
    return found


def _written(
    params: Params, model: GPT, encoding: tiktoken.Encoding, tokens: Path, manifest: Manifest
) -> tuple[dict[str, float], list[Figure]]:
    """How the model writes when nothing is asked."""
    facts = manifest.facts
    training = map_split(tokens, "train", facts)
    return generation.evaluate(
        model,
        encoding,
        np.asarray(training[: generation.SEARCHED_TOKENS]),
        tokens=params.sample_tokens,
        seed=params.seed,
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
