"""Goes in: what evaluate and training left, and what the registry made of it. Comes out: a page to judge a run by.

data/reports/run/index.html shows how every model learned, what it reaches beside its baseline, where it errs, and what
it writes beside what the champion wrote. Like the data report it holds texts of the corpus, and asks no other host.
"""

from __future__ import annotations

import csv
import html
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import pictures
from pipeline.digests import digest_of
from pipeline.evaluations.figures import METRICS_FILE, SAMPLES_FILE, Figure
from pipeline.manifest import MANIFEST
from pipeline.web_page import table, write_page

PAGE = "index.html"

SAMPLES_SHOWN = 12
CHARACTERS_SHOWN = 600
_MADE_OF = "made-of.txt"
_CURVES = ("train_loss", "validation_loss")


@dataclass(frozen=True)
class Judged:
    """A model, what the registry says of it and where, and the champion's samples where that is another version."""

    name: str
    standing: str
    address: str
    champions_samples: list[dict[str, str]]


def write(
    folder: Path, *, models: Sequence[Judged], evaluations: Path, checkpoints: Path, links: Mapping[str, str]
) -> bool:
    """Write the page and its pictures; False if the page that is there shows all this already.

    A model without an evaluation is named as such.
    """
    manifests = [place / model.name / MANIFEST for model in models for place in (evaluations, checkpoints)]
    made_of = digest_of(
        {"models": [asdict(model) for model in models], "of": [_text(path) for path in manifests], "links": dict(links)}
    )
    if (folder / PAGE).exists() and _text(folder / _MADE_OF) == made_of:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = {model.name: _json(evaluations / model.name / METRICS_FILE) for model in models}
    figures = [Figure(**row) for metrics in found.values() for row in (metrics or {}).get("table", [])]
    beside = [f'<a href="{html.escape(to)}">{html.escape(text)}</a>' for text, to in links.items()]
    pieces = ["<h1>Run report</h1>", f"<p>{' · '.join(beside)}</p>"]
    if figures:
        pieces += ["<h2>Applications</h2>", _applications(figures)]
    for model in models:
        pieces += [
            f"<h2>{html.escape(model.name)}</h2>",
            f'<p class="quiet">{html.escape(model.standing)}; <a href="{html.escape(model.address)}">in MLflow</a></p>',
        ]
        pieces += _model(model, found[model.name], evaluations / model.name, checkpoints / model.name, folder)
    write_page(folder / PAGE, "Run report", pieces)
    (folder / _MADE_OF).write_text(made_of, encoding="utf-8")
    return True


def _applications(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        beside = ["", "", ""]
        if figure.baseline is not None:
            beside = [f"{figure.baseline:.4g}", figure.baseline_name, "yes" if figure.beats_baseline else "no"]
        measured = [f"{figure.value:.4g}", f"{figure.low:.4g} – {figure.high:.4g}", f"{figure.n:,}"]
        rows.append([figure.name, *measured, *beside])
    head = ["figure", "value", "95 % interval", "n", "baseline", "which is", "surely better"]
    return table(head, rows, numeric=range(1, 5))


def _model(
    model: Judged, metrics: Mapping[str, Any] | None, evaluation: Path, checkpoint: Path, folder: Path
) -> list[str]:
    if metrics is None:
        return ["<p>It was not evaluated.</p>"]
    numbers = [
        [key, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"]
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    pieces = [table(["metric", "value"], numbers, numeric=[1])]
    if forgetting := (_json(checkpoint / MANIFEST) or {}).get("facts", {}).get("forgetting"):
        before, after = forgetting["bits_per_byte_before"], forgetting["bits_per_byte_after"]
        pieces.append(
            f"<p>Of the documents it started from it forgot {after - before:.3f} bits per byte: "
            f"{before:.3f} before, {after:.3f} after.</p>"
        )
    if history := _history(checkpoint):
        pictures.draw_curves(history, _CURVES, f"{model.name}: nats per target", folder / f"{model.name}-loss.png")
        pieces.append(_picture(f"{model.name}-loss.png", f"Loss of {model.name} while it learned"))
    if answers := _rows(evaluation / "confusion.csv"):
        labels = sorted({row[key] for row in answers for key in ("actual", "predicted")})
        counts = [[sum((r["actual"], r["predicted"]) == (a, p) for r in answers) for p in labels] for a in labels]
        pictures.draw_confusion(counts, labels, f"{model.name}: test set", folder / f"{model.name}-confusion.png")
        pieces.append(_picture(f"{model.name}-confusion.png", f"Confusion matrix of {model.name}"))
    return [*pieces, _samples(_json(evaluation / SAMPLES_FILE) or [], model.champions_samples)]


def _samples(own: Sequence[Mapping[str, str]], champions: Sequence[Mapping[str, str]]) -> str:
    """What the model wrote; beside it what was expected and what the champion wrote, where there is any."""
    theirs = {sample["prompt"]: sample["response"] for sample in champions}
    expected = any("expected" in sample for sample in own)
    head = ["prompt", *(["expected"] if expected else []), "this version", *(["champion"] if theirs else [])]
    rows = []
    for sample in own[:SAMPLES_SHOWN]:
        row = [sample["prompt"], *([sample.get("expected", "")] if expected else []), sample["response"]]
        row += [theirs.get(sample["prompt"], "–")] if theirs else []
        rows.append([cell if len(cell) <= CHARACTERS_SHOWN else cell[:CHARACTERS_SHOWN] + "…" for cell in row])
    return table(head, rows) if rows else ""


def _history(checkpoint: Path) -> list[dict[str, float]]:
    """The rows of both curves; losses of training and validation keep their own steps."""
    rows = [*_rows(checkpoint / "training.csv"), *_rows(checkpoint / "validation.csv")]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def _picture(file: str, says: str) -> str:
    return f'<p><img src="{html.escape(file)}" alt="{html.escape(says)}"></p>'


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
