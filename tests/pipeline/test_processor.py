"""A stage has the processor to itself, small models a half each, and a dead one holds nobody up."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import processor as module
from pipeline.params import Compute
from pipeline.processor import fits_a_half, processor
from pipeline.report import SilentReport

COMPUTE = Compute(device="cpu", threads=0, checkpoint_every_seconds=30)
HOLDER = """
import time
from pipeline.params import Compute
from pipeline import processor as module
from pipeline.params import Compute
from pipeline.processor import fits_a_half, processor
from pipeline.report import SilentReport
with processor(SilentReport(), Compute("cpu", 0, 30), half={half}):
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


def hold(seconds: float, *, half: bool = False) -> subprocess.Popen[str]:
    """Another process that computes for so long; it has begun when this returns."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(seconds=seconds, half=half)],
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
        with processor(report, COMPUTE):
            first.wait(timeout=5)
    assert report.notes == ["waiting for another stage to leave the processor"]


def test_a_killed_stage_frees_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGKILL of the holder the next one computes at once."""
    monkeypatch.chdir(tmp_path)
    with hold(60) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        report = Noted()
        with processor(report, COMPUTE):
            pass
    assert report.notes == []


def test_two_halves_compute_side_by_side_and_a_whole_waits_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one half the other is free; whoever wants the whole waits until both are."""
    monkeypatch.chdir(tmp_path)
    with hold(1.0, half=True) as first:
        report = Noted()
        with processor(report, COMPUTE, half=True):
            assert first.poll() is None
        assert report.notes == []
        with processor(report, COMPUTE):
            first.wait(timeout=5)
    assert report.notes == ["waiting for another stage to leave the processor"]


def test_threads_depend_on_the_model_and_the_cores_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the cores for a small model on a CPU, all for another; as many as were asked for, if any were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "cores", lambda: 6)
    asked = replace(COMPUTE, threads=2)
    for compute, half, threads in ((COMPUTE, True, 3), (COMPUTE, False, 6), (asked, True, 2), (asked, False, 2)):
        with processor(SilentReport(), compute, half=half) as given:
            assert given == threads
    assert fits_a_half(2_000_000, "cpu", COMPUTE)
    assert fits_a_half(2_000_000, "cpu", asked)
    assert not fits_a_half(2_000_000, "cpu", replace(COMPUTE, threads=4))
    assert not fits_a_half(2_000_000, "cuda", COMPUTE)
    assert not fits_a_half(50_000_000, "cpu", COMPUTE)
    monkeypatch.setattr(module, "cores", lambda: 1)
    assert not fits_a_half(2_000_000, "cpu", COMPUTE)
