"""Stages side by side compute one after another, and a dead one holds nobody up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.processor import processor
from pipeline.report import SilentReport

HOLDER = """
import time
from pipeline.processor import processor
from pipeline.report import SilentReport
with processor(SilentReport()):
    print("computing", flush=True)
    time.sleep({seconds})
"""


class Noted(SilentReport):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Kept."""
        self.notes.append(text)


def hold(seconds: float) -> subprocess.Popen[str]:
    """Another process that computes for so long; it has begun when this returns."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(seconds=seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert holder.stdout and holder.stdout.readline() == "computing\n"
    return holder


def test_the_second_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second says that it waits, and computes when the first has ended, not before."""
    monkeypatch.chdir(tmp_path)
    with hold(0.5) as first:
        report = Noted()
        with processor(report):
            first.wait(timeout=5)
    assert report.notes == ["waiting for another stage to leave the processor"]


def test_a_killed_stage_frees_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGKILL of the holder the next one computes at once."""
    monkeypatch.chdir(tmp_path)
    with hold(60) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        report = Noted()
        with processor(report):
            pass
    assert report.notes == []
