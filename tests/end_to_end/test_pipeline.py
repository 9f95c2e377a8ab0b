"""The whole road, driven as a user drives it: `homegrown run`, again, `dvc repro`, a change, a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.clone import Clone

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]

ALL_STAGES = {
    "ingest", "clean", "validate", "tokenize", "pretrain", "finetune@assistant", "finetune@spam",
    "evaluate@base", "evaluate@assistant", "evaluate@spam",
    "export@base", "export@assistant", "export@spam", "register",
}  # fmt: skip
MODELS = {"base", "assistant", "spam"}


def states(output: str) -> dict[str, str]:
    """What became of each stage, from the JSON that `homegrown run --json` prints."""
    return {stage["stage"]: stage["state"] for stage in json.loads(output)["stages"]}


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_command_goes_from_text_to_registered_models(finished: Clone) -> None:
    """`homegrown run` runs every stage, writes Data Docs and figures, and registers three champions."""
    report = finished.json("first_run.json")
    assert {s["stage"]: s["state"] for s in report["stages"]} == dict.fromkeys(ALL_STAGES, "done")
    assert {model["name"]: model["aliases"] for model in report["models"]} == {m: ["champion"] for m in MODELS}
    assert (finished.root / "data" / "reports" / "data_docs" / "index.html").is_file()
    for model in MODELS:
        assert finished.json(f"data/evaluations/{model}/metrics.json")["n"] > 0


def test_the_run_needs_no_network(finished: Clone, isolation: list[str]) -> None:
    """In a network namespace with nothing but loopback, everything runs to the registered models."""
    if not isolation:
        pytest.skip("this system does not allow a network namespace (unshare -rn) with loopback")
    models = finished.json("first_run.json")["models"]
    assert [(model["name"], model["aliases"]) for model in models] == [
        ("base", ["champion"]), ("assistant", ["champion"]), ("spam", ["champion"]),
    ]  # fmt: skip


def test_a_second_run_finds_everything_cached(finished: Clone) -> None:
    """Nothing runs twice but the look into the registry, and dvc.lock keeps its bytes."""
    before = sha256(finished.root / "dvc.lock")
    again = states(finished.homegrown("run", "--json").stdout)
    assert again == {**dict.fromkeys(ALL_STAGES, "cached"), "register": "done"}
    assert sha256(finished.root / "dvc.lock") == before


@pytest.mark.nightly  # in every run a small graph: test_first_run_runs_every_stage_and_leaves_the_lock_that_…
def test_dvc_repro_alone_leaves_the_same_lock(finished: Clone, clone: Clone) -> None:
    """`dvc repro` without Prefect does the same work in another clone: dvc.lock is identical, byte for byte."""
    clone.run(sys.executable, "-m", "dvc", "repro")
    assert (clone.root / "dvc.lock").read_bytes() == (finished.root / "dvc.lock").read_bytes()


def test_runs_are_tracked_with_their_parent(finished: Clone) -> None:
    """Every stage is a run in MLflow below the pipeline's run, finished, with what it made by digest."""
    script = """
import json, mlflow
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("homegrown")
runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
print(json.dumps([[r.info.run_name, r.info.status, r.info.run_id, r.data.tags] for r in runs]))
"""
    runs = json.loads(finished.run(sys.executable, "-c", script).stdout.splitlines()[-1])
    first = next(run for run in runs if run[0].startswith("pipeline-"))
    children = [run for run in runs if run[3].get("mlflow.parentRunId") == first[2]]
    assert {name for name, *_ in children} == ALL_STAGES
    assert {status for _, status, *_ in children} == {"FINISHED"}
    made = {name: tags for name, _, _, tags in children}
    digest = hashlib.sha256((finished.root / "data/checkpoints/base/manifest.json").read_bytes()).hexdigest()
    assert made["pretrain"]["homegrown.artefact.checkpoint"] == digest


def test_git_is_clean_after_a_run(finished: Clone) -> None:
    """A run leaves nothing in git's way but dvc.lock, which is there to be committed."""
    left = finished.run("git", "status", "--porcelain").stdout.split()
    assert left == ["??", "dvc.lock", "??", "first_run.json"]


def test_champions_answer_on_the_command_line(finished: Clone) -> None:
    """`homegrown classify` asks the registry's champion, and `generate` refuses one that does not write."""
    answer = json.loads(finished.homegrown("classify", "see you at eight", "--json").stdout)
    assert set(answer["probabilities"]) == {"ham", "spam"}
    assert answer["label"] in answer["probabilities"]
    refused = finished.homegrown("generate", "x", "--model", "spam", check=False)
    assert refused.returncode == 64
    assert refused.stderr.startswith("homegrown: ")


@pytest.mark.nightly  # in every run without the pipeline around it: tests/pipeline/tracking/test_registry.py
def test_a_deleted_registry_is_filled_again(finished: Clone) -> None:
    """The registry is asked on every run; what it has lost is registered anew, without training anything."""
    for name in ("mlflow.db", "mlruns"):
        (finished.root / name).rename(finished.root / f"{name}.away")
    try:
        report = json.loads(finished.homegrown("run", "--json").stdout)
        assert {s["stage"] for s in report["stages"] if s["state"] == "done"} == {"register"}
        assert {(m["name"], m["version"], m["is_new"]) for m in report["models"]} == {(m, 1, True) for m in MODELS}
        finished.wait_for_delivery()
    finally:
        shutil.rmtree(finished.root / "mlruns", ignore_errors=True)
        for name in ("mlflow.db", "mlruns"):
            (finished.root / name).unlink(missing_ok=True)
            (finished.root / f"{name}.away").rename(finished.root / name)


@pytest.mark.nightly  # in every run: tests/pipeline/tracking/test_delivery.py, and the exit code in test_main.py
def test_mlflow_that_does_not_answer_loses_nothing(finished: Clone) -> None:
    """With the tracking server gone a run ends with 69 in seconds; what it recorded is delivered by the next run."""
    dead = "http://127.0.0.1:1"
    away = finished.homegrown("run", check=False, MLFLOW_TRACKING_URI=dead)
    assert away.returncode == 69
    assert [line for line in away.stderr.splitlines() if line.startswith("homegrown: ") and dead in line]
    assert list((finished.root / ".homegrown" / "spool").glob("*.jsonl"))
    finished.homegrown("run")
    finished.wait_for_delivery()
    assert not list((finished.root / ".homegrown" / "spool").glob("*.jsonl"))


@pytest.mark.nightly  # in every run a small graph: test_changed_input_reruns_exactly_its_descendants
def test_a_changed_parameter_remakes_its_part_and_no_more(copied: Clone) -> None:
    """Another seed for the spam model fine-tunes, evaluates, exports and registers that model alone."""
    changed = states(copied.homegrown("run", "--json", "--set", "finetunes.spam.seed=7").stdout)
    assert {stage for stage, state in changed.items() if state == "done"} == {
        "finetune@spam", "evaluate@spam", "export@spam", "register",
    }  # fmt: skip


def long_enough_to_stop(clone: Clone) -> None:
    """Make pretraining take several seconds, with a checkpoint every second."""
    clone.set(pretrain__steps="60", pretrain__batch_size="16", pretrain__d_model="64", pretrain__evaluate_every="30")
    clone.set(compute__checkpoint_every_seconds="1")


def test_training_killed_in_the_middle_resumes_to_the_same_weights(copied: Clone) -> None:
    """kill -9 of the training process, then `homegrown run`: it resumes, and every byte it leaves is the same."""
    long_enough_to_stop(copied)
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "pretrain"],
        cwd=copied.root, env=copied.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as first:  # fmt: skip
        os.kill(wait_for_checkpoint(copied.root, first), signal.SIGKILL)
        assert first.wait(120) != 0
    checkpoint = copied.root / "data/checkpoints/base"
    assert not checkpoint.exists()
    assert "resuming after step" in copied.homegrown("run", "pretrain").stdout
    resumed = {file.name: sha256(file) for file in checkpoint.iterdir()}
    shutil.rmtree(checkpoint)
    shutil.rmtree(copied.root / "data/scratch")
    assert "resuming" not in copied.run(sys.executable, "-m", "pipeline", "pretrain").stdout
    assert {file.name: sha256(file) for file in checkpoint.iterdir()} == resumed


def wait_for_checkpoint(root: Path, run: subprocess.Popen[bytes]) -> int:
    """The pid of the training process, once it has saved a checkpoint."""
    import psutil

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and run.poll() is None:
        if list((root / "data/scratch/pretrain").glob("*/step-*/digests.json")):
            for process in psutil.process_iter(["cmdline", "cwd"]):
                if process.info["cwd"] == str(root) and (process.info["cmdline"] or [])[-2:] == [
                    "pipeline",
                    "pretrain",
                ]:
                    return process.pid
        time.sleep(0.05)
    pytest.fail("no checkpoint was saved in time")


@pytest.mark.nightly  # in every run: test_a_stopped_training_says_how_to_go_on, and the kill above
def test_sigterm_saves_and_exits_with_75(copied: Clone) -> None:
    """SIGTERM to a training stage saves a checkpoint and exits 75; the next run goes on from exactly there."""
    long_enough_to_stop(copied)
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "pretrain"], cwd=copied.root, env=copied.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as stage:  # fmt: skip
        assert stage.stdout is not None
        for line in stage.stdout:
            if "parameters on" in line:
                break
        time.sleep(1)
        stage.terminate()
        _, complaint = stage.communicate(timeout=120)
    assert stage.returncode == 75
    assert complaint.startswith("homegrown: pretrain: stopped after step")
    assert len(complaint.splitlines()) == 1
    step = complaint.split("step ")[1].split()[0]
    assert f"resuming after step {step} " in copied.homegrown("run", "pretrain").stdout
