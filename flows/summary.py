"""Goes in: a run that has ended. Comes out: the short table a person wants to see, or the same as one JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.pipeline_run import PipelineRun
from flows.project import STATE
from pipeline.errors import HomegrownError

if TYPE_CHECKING:
    from rich.console import RenderableType

EVALUATIONS = Path("data") / "evaluations"
DATA_DOCS = Path("data") / "reports" / "data_docs" / "index.html"
RUN_REPORT = Path("data") / "reports" / "run" / "index.html"
# Left there by the stage that asks the registry, which is thus not asked twice.
REGISTER, REGISTERED = "register", STATE / "registered.json"
EVALUATE = "evaluate@"
_UP_TO_DATE = ("cached", "done")
SAMPLE_CHARACTERS = 400
_STYLES = {"cached": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow", "not run": "dim"}


def as_object(root: Path, run: PipelineRun | None, seconds: float, error: HomegrownError | None) -> dict[str, Any]:
    """Everything the table shows, for programs."""
    outcomes = [run.outcomes[stage.name] for stage in run.plan] if run else []
    return {
        "exit_code": error.exit_code if error else 0,
        "error": str(error) if error else None,
        "seconds": round(seconds, 2),
        "stages": [
            {
                "stage": o.stage,
                "state": o.state,
                "seconds": round(o.seconds, 2),
                **({"error": str(o.error)} if o.error else {}),
            }
            for o in outcomes
        ],
        "metrics": metrics(root, run),
        "models": models(root, run),
        "sample": sample(root, run),
        "data_docs": str(DATA_DOCS) if (root / DATA_DOCS).exists() else None,
        "run_report": str(RUN_REPORT) if (root / RUN_REPORT).exists() else None,
    }


def show(root: Path, run: PipelineRun, seconds: float) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    stages = _table("stage", "state", "seconds")
    for stage in run.plan:
        outcome = run.outcomes[stage.name]
        took = f"{outcome.seconds:.1f}" if outcome.state != "cached" and outcome.seconds else ""
        stages.add_row(stage.name, Text(outcome.state, style=_STYLES[outcome.state]), took)
    blocks: list[RenderableType] = [stages]
    if measured := metrics(root, run):
        table = _table("model", "metrics")
        for model, values in measured.items():
            table.add_row(model, " · ".join(f"{key} {_number(value)}" for key, value in values.items()))
        blocks.append(table)
    if registered := models(root, run):
        table = _table("registered", "version", "alias", "")
        for entry in registered:
            new = "new" if entry.get("is_new") else ""
            table.add_row(str(entry.get("name")), str(entry.get("version")), _words(entry.get("aliases")), new)
        blocks.append(table)
    for block in blocks:
        console.print()
        console.print(block)
    console.print()
    if text := sample(root, run):
        console.print(Text.assemble(("sample     ", "dim"), text))
    for says, page in (("report     ", RUN_REPORT), ("data docs  ", DATA_DOCS)):
        if (root / page).exists():
            console.print(Text.assemble((says, "dim"), str(page)))
    console.print(Text.assemble(("runs       ", "dim"), "homegrown ui"))
    cached = sum(outcome.state == "cached" for outcome in run.outcomes.values())
    done = sum(outcome.state == "done" for outcome in run.outcomes.values())
    console.print(Text.assemble(("total      ", "dim"), f"{done} run, {cached} cached, {seconds:.1f} s"))


def metrics(root: Path, run: PipelineRun | None) -> dict[str, dict[str, float]]:
    """Per model that is evaluated, its figures; the one that decides between two models stands first."""
    found = {}
    for model in _evaluated(run):
        content = _json(root / EVALUATIONS / model / "metrics.json")
        if isinstance(content, dict):
            figures = {k: v for k, v in content.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            found[model] = dict(sorted(figures.items(), key=lambda item: item[0] != content.get("main")))
    return found


def models(root: Path, run: PipelineRun | None) -> list[dict[str, Any]]:
    """What this run's registry check has found or made: name, version, aliases and more; empty without one."""
    outcome = run.outcomes.get(REGISTER) if run else None
    content = _json(root / REGISTERED) if outcome and outcome.state == "done" else None
    return [model for model in content if isinstance(model, dict)] if isinstance(content, list) else []


def sample(root: Path, run: PipelineRun | None) -> str:
    """A piece of text that the base model has written, prompt and all, on one line."""
    samples = _json(root / EVALUATIONS / "base" / "samples.json") if "base" in _evaluated(run) else None
    first = samples[0] if isinstance(samples, list) and samples else None
    if not isinstance(first, dict):
        return ""
    line = " ".join(f"{first.get('prompt', '')}{first.get('response', '')}".split())
    return line if len(line) <= SAMPLE_CHARACTERS else line[: SAMPLE_CHARACTERS - 1] + "…"


def _evaluated(run: PipelineRun | None) -> list[str]:
    """The models whose evaluation is up to date after this run; what an earlier one has left is not its result."""
    outcomes = run.outcomes.values() if run else ()
    return [o.stage.removeprefix(EVALUATE) for o in outcomes if o.stage.startswith(EVALUATE) and o.state in _UP_TO_DATE]


def _table(*columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "seconds" else "left")
    return table


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value or "")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
