"""What a stage says reaches the terminal, the flow and the record, and a stage that says nothing still works."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.report import SilentReport, StageReport, exit_line


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.said.append((dict(values), step))

    def keep(self, path: Path, folder: str = "") -> None:
        self.said.append((path, folder))


def test_off_a_terminal_progress_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The first step and the last are printed; those that follow within ten seconds are not."""
    report = StageReport("pretrain")
    for done in range(1, 1001):
        report.progress(done, 1000, "steps", f"loss {1 / done:.3f}")
    report.note("done")
    assert capsys.readouterr().out.splitlines() == [
        "pretrain: 1/1,000 steps · loss 1.000",
        "pretrain: 1,000/1,000 steps · loss 0.001",
        "done",
    ]


def test_the_flow_is_told_in_marked_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under HOMEGROWN_PROGRESS=json, progress is one JSON object behind `@progress`, and so is the way it ended."""
    monkeypatch.setenv("HOMEGROWN_PROGRESS", "json")
    report = StageReport("finetune@spam")
    report.progress(900, 900, "steps", "loss 0.1")
    exit_line(65, "no rows")
    progress, ended = capsys.readouterr().out.splitlines()
    assert json.loads(progress.removeprefix("@progress ")) == {
        "stage": "finetune@spam",
        "done": 900,
        "total": 900,
        "unit": "steps",
        "note": "loss 0.1",
    }
    assert json.loads(ended.removeprefix("@exit ")) == {"code": 65, "message": "no rows"}


def test_without_the_flow_nothing_is_marked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person at a terminal sees no protocol."""
    monkeypatch.delenv("HOMEGROWN_PROGRESS", raising=False)
    exit_line(65, "no rows")
    assert capsys.readouterr().out == ""


def test_numbers_and_files_go_to_the_record(tmp_path: Path) -> None:
    """Metrics with their step and files with their folder reach the sink as they were given."""
    sink = Kept()
    report = StageReport("evaluate", sink)
    report.metrics({"loss": 1.5}, 3)
    report.metrics({"accuracy": 0.5})
    report.keep(tmp_path, "docs")
    assert sink.said == [({"loss": 1.5}, 3), ({"accuracy": 0.5}, None), (tmp_path, "docs")]


def test_silence_is_a_report() -> None:
    """A stage can be run for its files alone."""
    report = SilentReport()
    report.note("a")
    report.metrics({"a": 1.0}, 1)
    report.progress(1, 2, "steps")
    report.keep(Path("a"))
