"""The table at the end: what ran, how good the models are, what was registered, and a piece of text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import summary
from flows.display import PlainDisplay
from flows.pipeline_run import Outcome, PipelineRun
from pipeline.errors import DataError
from pipeline.versioning import Stage


class Untracked:
    """A tracked run that keeps nothing."""

    def environment(self) -> dict[str, str]:
        """Nothing to hand on."""
        return {}

    def cached(self, stage: str) -> None:
        """Nothing to note."""


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    """A run that has ended, in a project with figures, samples and a registry."""
    files = {
        "data/evaluations/base/metrics.json": {
            "perplexity": 12.5,
            "bits_per_byte": 1.7,
            "n": 23311,
            "main": "bits_per_byte",
            "higher_is_better": False,
            "data": "abc",
        },
        "data/evaluations/base/samples.json": [{"prompt": "Return the", "response": " first\nitem."}],
        ".homegrown/registered.json": [{"name": "base", "version": 3, "aliases": ["champion"], "is_new": True}],
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "data/reports/data_docs").mkdir(parents=True)
    (tmp_path / "data/reports/data_docs/index.html").write_text("<html>")
    plan = [
        Stage("clean", (), cached=True, ready=False),
        Stage("evaluate@base", ("clean",), cached=False, ready=True),
        Stage("register", (), cached=False, ready=True),
    ]
    run = PipelineRun(tmp_path, plan, frozenset(), PlainDisplay(), Untracked())
    run.outcomes = {
        "clean": Outcome("clean", "cached"),
        "evaluate@base": Outcome("evaluate@base", "done", 12.34),
        "register": Outcome("register", "done", 1.0),
    }
    return run


def test_object_holds_what_the_table_shows(run: PipelineRun) -> None:
    """The JSON object: stages in order, figures with the deciding one first, versions, sample, and where to look."""
    found = summary.as_object(run.root, run, 13.5, None)
    assert found == {
        "exit_code": 0,
        "error": None,
        "seconds": 13.5,
        "stages": [
            {"stage": "clean", "state": "cached", "seconds": 0.0},
            {"stage": "evaluate@base", "state": "done", "seconds": 12.34},
            {"stage": "register", "state": "done", "seconds": 1.0},
        ],
        "metrics": {"base": {"bits_per_byte": 1.7, "perplexity": 12.5, "n": 23311}},
        "models": [{"name": "base", "version": 3, "aliases": ["champion"], "is_new": True}],
        "sample": "Return the first item.",
        "data_docs": "data/reports/data_docs/index.html",
        "run_report": None,
    }
    assert next(iter(found["metrics"]["base"])) == "bits_per_byte"


def test_table_names_everything_once(run: PipelineRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed table has the stages, the figures, the versions, the sample, and the command that opens the pages."""
    summary.show(run.root, run, 13.5)
    printed = capsys.readouterr().out
    for words in (
        "evaluate@base   done        12.3",
        "bits_per_byte 1.7",
        "champion",
        "Return the first item.",
        "homegrown ui",
    ):
        assert words in printed
    assert printed.splitlines()[-1].split() == ["total", "2", "run,", "1", "cached,", "13.5", "s"]


def test_registry_is_only_shown_by_a_run_that_has_asked_it(run: PipelineRun) -> None:
    """If the registry check failed or was not part of the run, an earlier answer is not shown as this one's."""
    run.outcomes["register"] = Outcome("register", "failed", 1.0, DataError("register: no"))
    assert summary.models(run.root, run) == []


def test_figures_of_an_earlier_run_are_not_shown_as_this_one_s(run: PipelineRun) -> None:
    """Where the evaluation failed or never began, what lies in its folder is older, and stays unsaid."""
    run.outcomes["evaluate@base"] = Outcome("evaluate@base", "not run")
    found = summary.as_object(run.root, run, 1.0, None)
    assert (found["metrics"], found["sample"]) == ({}, "")


def test_run_that_never_began_has_an_object_too(tmp_path: Path) -> None:
    """A mistake in the settings leaves an object with its exit code and nothing else in it."""
    found = summary.as_object(tmp_path, None, 0.1, DataError("no"))
    assert (found["exit_code"], found["stages"], found["sample"]) == (65, [], "")
