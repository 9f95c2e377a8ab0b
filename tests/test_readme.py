"""The README's commands exist and its figures were measured."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
RECORDED = ROOT / "benchmarks" / "results" / "default-run.json"


def of(program: str) -> list[str]:
    """The README's commands that call a program."""
    return [command for command in COMMANDS if shlex.split(command)[0] == program]


def test_every_command_is_of_a_program_that_is_tested_here() -> None:
    """A command of another program would go untested."""
    assert {shlex.split(command)[0] for command in COMMANDS} == {
        "make", "homegrown", "dvc", "mlflow", "curl", "python3",
    }  # fmt: skip


@pytest.mark.parametrize("command", of("make"))
def test_make_commands_have_a_target(command: str) -> None:
    """`make -n` knows what to do."""
    subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", of("homegrown"))
def test_homegrown_commands_parse(command: str) -> None:
    """Every subcommand, option and argument is one that the command line accepts."""
    import typer

    from flows.cli import app

    arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    context = group.make_context("homegrown", arguments, resilient_parsing=False)
    name, subcommand, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
    assert subcommand is not None, command
    subcommand.make_context(name, list(rest), parent=context)


@pytest.mark.slow
def test_settings_named_in_the_readme_exist(tmp_path: Path) -> None:
    """`--set KEY=VALUE` and `--preset NAME`, as written in the README, are accepted by params.yaml as it is."""
    from pipeline.set_params import set_values

    params = tmp_path / "params.yaml"
    for command in of("homegrown"):
        params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        words = shlex.split(command)
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        preset = next((words[i + 1] for i, word in enumerate(words) if word == "--preset"), None)
        set_values(params, dict(setting.split("=", 1) for setting in settings), preset)


def test_what_dvc_shows_is_in_the_graph() -> None:
    """`dvc metrics` and `dvc plots` have files to show, made by stages."""
    from ruamel.yaml import YAML

    graph: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")
    models = ("base", "assistant", "spam", "sentiment")
    outs = {f"data/{folder}/{name}" for folder in ("checkpoints", "evaluations") for name in models}
    files = [*graph["metrics"], *(file for plot in graph["plots"] for one in plot.values() for file in one["y"])]
    assert {str(Path(file).parent) for file in files} <= outs


def test_every_exit_code_has_its_line() -> None:
    """Those of errors, of a bug, and the shell's for Ctrl-C and SIGTERM; and no other."""
    from pipeline.errors import BUG_EXIT_CODE, BY_EXIT_CODE

    table = re.search(r"\| Code \| Meaning \|\n(.*?)\n\n", README, re.DOTALL)
    assert table
    codes = [
        int(code) for cells in re.findall(r"^\| (\d[\d, ]*) \|", table[1], re.MULTILINE) for code in cells.split(",")
    ]
    assert codes == sorted([*BY_EXIT_CODE, BUG_EXIT_CODE, 130, 143])


SHOWN = {
    "text: bits per byte": ".3f",
    "spam: accuracy": ".1%",
    "sentiment: accuracy": ".1%",
    "instructions: exact match": ".1%",
    "translation: chrF": ".1f",
    "summaries: rougeL": ".3f",
    "retrieval: recall@1": ".1%",
    "answers: F1": ".3f",
}


def test_figures_are_those_of_the_recorded_run() -> None:
    """Each figure of the README's tables stands in benchmarks/results/default-run.json, rounded as shown."""
    record = json.loads(RECORDED.read_text(encoding="utf-8"))
    table = {figure["name"]: figure for metrics in record["metrics"].values() for figure in metrics["table"]}
    for name, form in SHOWN.items():
        value, low, high, baseline = (
            f"{table[name][key]:{form}}".replace("%", " %") for key in ("value", "low", "high", "baseline")
        )
        assert re.search(rf"\| {value} \| {low} to {high} \| [^|]+: {baseline} \|", README), name
    for figure in (
        f"{record['xz_bits_per_byte']['alone']:.2f} bits per byte",
        f"{record['xz_bits_per_byte']['after_training_text']:.2f} after the training",
        f"{record['seconds']:.0f} s",
        record["hardware"]["cpu"],
        record["commit"][:10],
    ):
        assert figure in README, figure


def test_what_is_said_of_the_larger_preset_was_recorded() -> None:
    """Its time, its size and its bits per byte are those of benchmarks/results/environment-docs.json."""
    record = json.loads((RECORDED.parent / "environment-docs.json").read_text(encoding="utf-8"))
    minutes, training = (round(s / 60) for s in (record["seconds"], record["seconds_by_stage"]["pretrain"]))
    for figure in (
        f"{sum(record['tokens']['n_documents'].values()):,} documents",
        f"{record['tokens']['n_tokens']['train'] / 1e6:.1f} million tokens",
        f"{minutes // 60} h {minutes % 60} min, of which training {training // 60} h {training % 60} min",
        f"all cached: {record['cached_seconds'][2]:.1f} s",
        f"{record['metrics']['base']['bits_per_byte']:.3f} bits per byte",
        f"{record['xz_bits_per_byte']['after_training_text']:.2f} ([record]",
        record["commit"][:10],
    ):
        assert figure in README, figure


def said_in_readme(figure: str) -> bool:
    """Whether the README says this, wherever its lines end."""
    return re.search(re.escape(figure.replace("%", " %")).replace(r"\ ", r"\s+"), README) is not None


def test_what_is_said_of_published_weights_and_of_amx_was_recorded() -> None:
    """Time and figures are those of the records published.json and default-run-amx.json."""
    records = [json.loads((RECORDED.parent / f"{name}.json").read_text()) for name in ("published", "default-run-amx")]
    for record in records:
        value = {row["name"]: row["value"] for metrics in record["metrics"].values() for row in metrics["table"]}
        for figure in (
            f"{value['text: bits per byte']:.3f} bits per byte",
            f"instructions {value['instructions: exact match']:.1%}",
            f"chrF {value['translation: chrF']:.1f}",
            f"ROUGE-L {value['summaries: rougeL']:.3f}",
            f"questions F1 {value['answers: F1']:.3f}",
            record["commit"][:10],
        ):
            assert said_in_readme(figure), figure
    published, here = records
    cached, (spam, sentiment) = published["cached_seconds"][2], (
        (published["metrics"][name]["accuracy"], here["metrics"][name]["accuracy"]) for name in ("spam", "sentiment")
    )  # fmt: skip
    assert said_in_readme(f"{published['seconds'] / 60:.0f} min; again, all cached: {cached:.1f} s")
    assert said_in_readme(f"spam {spam[0]:.1%}, sentiment {sentiment[0]:.1%}")
    assert said_in_readme(f"AMX took {here['seconds']:.0f} s")
    assert said_in_readme(f"({100 * spam[1]:.1f} and {100 * sentiment[1]:.1f}%)")


def numbers(value: Any) -> Iterator[float]:
    """Every number in a record."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


SPEEDS = re.findall(
    r"^\| (.+?) \| ([\d.,]+) \| (.+?) \| \[[\w ]+\]\((benchmarks/results/[\w-]+\.json)\) \|$", README, re.M
)


def test_there_are_speeds() -> None:
    """The table of speeds is found, row by row."""
    assert len(SPEEDS) >= 8


@pytest.mark.parametrize(("what", "ours", "others", "record"), SPEEDS)
def test_speeds_are_those_of_the_records(what: str, ours: str, others: str, record: str) -> None:
    """Each figure of a row stands in the row's record, rounded as shown."""
    recorded = set(numbers(json.loads((ROOT / record).read_text(encoding="utf-8"))))
    for shown in [ours, *re.findall(r"(?<![\w.])[\d,]*\d(?:\.\d+)?(?![\w.])", others)]:
        decimals = len(shown.partition(".")[2])
        assert shown in {f"{number:,.{decimals}f}" for number in recorded}, (what, shown)


@pytest.mark.parametrize("name", SHOWN)
def test_every_application_beats_its_baseline(name: str) -> None:
    """In the recorded run the whole interval of each lies on the better side of what costs nothing."""
    record = json.loads(RECORDED.read_text(encoding="utf-8"))
    (figure,) = [f for metrics in record["metrics"].values() for f in metrics["table"] if f["name"] == name]
    better = figure["low"] > figure["baseline"] if figure["higher_is_better"] else figure["high"] < figure["baseline"]
    assert better, figure


def test_links_lead_somewhere() -> None:
    """Every relative link and picture of the README is a file of the project."""
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
