"""A stage that is spread over processes: it starts them itself, one of them speaks, and its exit code is theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import __main__ as stages
from pipeline import processes
from pipeline.errors import ConfigurationError
from pipeline.params import Compute
from pipeline.processes import Wanted
from pipeline.set_params import set_values

REPOSITORY = Path(__file__).resolve().parents[2]
ONE = Compute("cpu", 1, 30)


@pytest.mark.parametrize(
    ("compute", "wanted"),
    [
        (ONE, None),
        (replace(ONE, processes=0), None),
        (replace(ONE, processes=3), Wanted(3, 1)),
        (replace(ONE, nodes=2), Wanted(1, 2)),
    ],
)
def test_one_process_needs_no_torchrun(compute: Compute, wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only several processes or machines do; and a process that was started for its part starts no more."""
    assert processes.wanted(compute) == wanted
    monkeypatch.setenv("RANK", "0")
    assert processes.wanted(compute) is None


def test_several_machines_need_a_meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MASTER_ADDR nobody knows where to meet."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigurationError, match=r"compute\.nodes is 2: set MASTER_ADDR"):
        processes.run_in_processes(["pretrain"], Wanted(1, 2))


def test_the_first_that_ends_speaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Alone a process may always say how it ended; of several the first, whose exit code stays."""
    monkeypatch.delenv(processes.EXIT_CODE_FILE, raising=False)
    assert processes.first_to_end(75) and processes.first_to_end(70)
    monkeypatch.setenv(processes.EXIT_CODE_FILE, str(tmp_path / "code"))
    assert [processes.first_to_end(code) for code in (74, 70)] == [True, False]
    assert (tmp_path / "code").read_text() == "74"


def test_one_that_is_interrupted_says_so_with_130(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C outside the loop of a training is how the stage ended, and the process that watches hears of it."""
    monkeypatch.setenv(processes.EXIT_CODE_FILE, str(tmp_path / "code"))
    monkeypatch.setattr(stages, "_die_with_parent", lambda: None)
    monkeypatch.setattr(stages.signal, "signal", lambda *_: None)
    monkeypatch.setattr(stages, "_run", _interrupt)
    assert [stages.main(["clean"]), stages.main(["clean"])] == [130, 130]
    assert (tmp_path / "code").read_text() == "130"
    assert capsys.readouterr().err == "homegrown: clean: stopped; nothing half-made is left, run again to do it\n"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("left", "ends"), [("75", 75), (None, None)])
def test_a_signal_to_the_one_that_watches_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, left: str | None, ends: int | None
) -> None:
    """Stopped by a signal, it ends as its processes did, and as any interrupted command if they had not begun."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def launch(*_: object) -> Callable[..., None]:
        def stopped(*_: object) -> None:
            if left:
                Path(os.environ[processes.EXIT_CODE_FILE]).write_text(left)
            raise SignalException("stopped", signal.SIGINT)

        return stopped

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launch)
    if ends:
        assert processes.run_in_processes(["pretrain"], Wanted(2, 1)) == ends
        return
    with pytest.raises(KeyboardInterrupt):
        processes.run_in_processes(["pretrain"], Wanted(2, 1))


@pytest.fixture
def spread(made: Any, tmp_path: Path) -> Any:
    """A project whose params.yaml asks for two processes."""
    from_conftest = sys.modules[type(made).__module__].SMALL["pretrain"]
    shutil.copy(REPOSITORY / "params.yaml", made.root / "params.yaml")
    settings = {f"pretrain.{key}": str(value) for key, value in from_conftest.items()}
    settings |= {"compute.processes": "2", "compute.threads": "1", "compute.device": "cpu"}
    set_values(made.root / "params.yaml", settings)
    shutil.rmtree(made.path("checkpoints/base"))
    shutil.rmtree(made.path("scratch"))
    return made


@pytest.mark.slow
def test_what_does_not_fit_into_two_processes_is_refused_before_they_train(spread: Any) -> None:
    """The first plans for all, and its refusal is how the stage ends."""
    set_values(spread.root / "params.yaml", {"pretrain.batch_size": "10000000"})
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "pretrain"],
        cwd=spread.root, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 74
    assert "of memory for 2 processes" in done.stderr and not spread.path("checkpoints/base").exists()


@pytest.mark.nightly  # in every run two processes train and go on from each other's checkpoints in test_parallel.py
@pytest.mark.parametrize("sharded", ["false", "true"])
def test_two_processes_stop_and_go_on_like_one(
    spread: Any, sharded: str, sha256_of: Callable[[Path], dict[str, str]]
) -> None:
    """SIGTERM to the stage saves in all processes and ends with 75; the same command then ends in the same bytes."""
    set_values(spread.root / "params.yaml", {"compute.shard_model": sharded, "pretrain.steps": "40"})
    set_values(spread.root / "params.yaml", {"pretrain.evaluate_every": "40"})
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOMEGROWN_PROGRESS": "json"}
    command = [sys.executable, "-m", "pipeline", "pretrain"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=spread.root, env=environment, capture_output=True, text=True, timeout=600)

    with subprocess.Popen(command, cwd=spread.root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("@progress"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
    assert process.returncode == 75 and rest.count("@exit") == 1 and "with everything saved" in rest
    assert run().returncode == 0
    resumed = sha256_of(spread.path("checkpoints/base"))
    shutil.rmtree(spread.path("scratch"))
    whole = run()
    assert whole.returncode == 0 and "40" in whole.stdout and "2 processes" in whole.stdout
    assert sha256_of(spread.path("checkpoints/base")) == resumed
