"""Pretraining twice, or in pieces, or after a fault, gives the same bytes as doing it once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_model
from pipeline.documents import Document, read_records, write_records
from pipeline.errors import ConfigurationError, DataError, IntegrityError, TryAgainError
from pipeline.manifest import commit

REPOSITORY = Path(__file__).resolve().parents[3]
SCENE = REPOSITORY / "tests" / "pipeline" / "conftest.py"

Sha256 = Callable[[Path], dict[str, str]]


def anew(project: Any) -> None:
    """Forget that pretraining was ever done."""
    shutil.rmtree(project.path("checkpoints/base"))
    shutil.rmtree(project.path("scratch"))


def checkpoints(project: Any) -> list[Path]:
    """The checkpoints to resume from, oldest first."""
    return sorted(project.path("scratch/pretrain").glob("*/step-*"))


def stopping_at(project: Any, step: int) -> None:
    """Send this process SIGTERM, as a scheduler would, when the step is reported."""
    project.report.on_progress = lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == step else None


def stopped_at(project: Any, step: int, **changes: Any) -> None:
    project.report = type(project.report)()
    stopping_at(project, step)
    with pytest.raises(
        TryAgainError, match=f"stopped after step {step} of 6 with everything saved; run the same command"
    ):
        project.run("pretrain", **changes)


def test_the_result_is_a_model_with_its_curves(made: Any) -> None:
    """The artefact holds weights that load, a row of loss per step, a row per look at the validation split."""
    model = load_model(made.path("checkpoints/base"))
    facts, tokens = made.manifest("checkpoints/base").facts, made.manifest("tokens")
    assert (model.config.vocab_size, model.config.n_layers, model.config.d_model) == (300, 1, 32)
    assert facts == {
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_seen": 6 * 2 * 192,
        "vocabulary_fingerprint": tokens.facts["vocabulary_fingerprint"],
    }
    with (made.path("checkpoints/base") / "training.csv").open() as file:
        training = list(csv.DictReader(file))
    with (made.path("checkpoints/base") / "validation.csv").open() as file:
        validation = list(csv.DictReader(file))
    assert [row["step"] for row in training] == ["1", "2", "3", "4", "5", "6"]
    assert [row["tokens_seen"] for row in training] == [str(384 * step) for step in range(1, 7)]
    assert [row["step"] for row in validation] == ["3", "6"]
    assert float(training[-1]["train_loss"]) < float(training[0]["train_loss"])
    assert made.manifest("checkpoints/base").inputs == {"tokens": tokens.digest}


def test_training_twice_gives_equal_bytes(made: Any, sha256_of: Sha256) -> None:
    """The same params and tokens give the same files, weights and all."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    made.run("pretrain")
    assert sha256_of(made.path("checkpoints/base")) == before


@pytest.mark.parametrize("step", [1, 3, 5])
def test_stopping_and_going_on_equals_never_having_stopped(made: Any, sha256_of: Sha256, step: int) -> None:
    """After SIGTERM at any step, the same command ends with the bytes of an uninterrupted run, dropout included."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    stopped_at(made, step)
    assert not made.path("checkpoints/base").exists()
    report = made.run("pretrain")
    assert f"resuming after step {step} of 6" in report.notes
    assert sha256_of(made.path("checkpoints/base")) == before


def test_stopping_at_every_step_equals_never_having_stopped(made: Any, sha256_of: Sha256) -> None:
    """Five stops in a row cost time and nothing else."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    for step in range(1, 6):
        stopped_at(made, step)
    made.run("pretrain")
    assert sha256_of(made.path("checkpoints/base")) == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_a_torn_checkpoint_costs_steps_and_nothing_else(made: Any, sha256_of: Sha256, damage: str) -> None:
    """The newest whole checkpoint counts: a damaged one is named and passed over, and the end is the same."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    stopped_at(made, 2)
    stopped_at(made, 4)
    weights = checkpoints(made)[-1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1
    if damage == "deleted":
        weights.unlink()
    else:
        weights.write_bytes(content if damage == "flipped" else content[:-100])
    report = made.run("pretrain")
    assert report.notes[0].startswith("a damaged checkpoint was passed over: step-00000004: ")
    assert report.notes[1] == "resuming after step 2 of 6"
    assert sha256_of(made.path("checkpoints/base")) == before


@pytest.mark.parametrize("steps", [[2], [2, 4]])
def test_where_every_checkpoint_is_damaged_training_begins_anew(made: Any, sha256_of: Sha256, steps: list[int]) -> None:
    """It says so, and ends as ever."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    for step in steps:
        stopped_at(made, step)
    for path in checkpoints(made):
        (path / "state.json").write_text("torn")
    report = made.run("pretrain")
    assert report.notes[len(steps)] == f"no checkpoint is whole (damaged: {len(steps)}), so training begins anew"
    assert not any(note.startswith("resuming") for note in report.notes)
    assert sha256_of(made.path("checkpoints/base")) == before


def test_a_finished_training_is_not_done_again(made: Any, sha256_of: Sha256) -> None:
    """With its last checkpoint at hand, the artefact is written again without one step, equal to before."""
    before = sha256_of(made.path("checkpoints/base"))
    made.report.on_progress = lambda done: pytest.fail(f"step {done} was trained again")
    shutil.rmtree(made.path("checkpoints/base"))
    report = made.run("pretrain")
    assert "resuming after step 6 of 6" in report.notes
    assert sha256_of(made.path("checkpoints/base")) == before


def test_what_a_killed_run_wrote_after_its_checkpoint_is_dropped(made: Any, sha256_of: Sha256) -> None:
    """Rows of the history that are later than the checkpoint, whole or torn, do not stand twice in the curve."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    stopped_at(made, 3)
    [history] = made.path("scratch/pretrain").glob("*/history.jsonl")
    with history.open("a") as file:
        file.write(
            json.dumps({"step": 4, "tokens_seen": 1, "learning_rate": 9.0, "train_loss": 9.0}) + '\n{"step": 5, "tra'
        )
    made.run("pretrain")
    assert sha256_of(made.path("checkpoints/base")) == before


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_end(made: Any, sha256_of: Sha256) -> None:
    """After SIGKILL at a moment nobody chose, running again gives the bytes of an uninterrupted run."""
    before = sha256_of(made.path("checkpoints/base"))
    anew(made)
    code = f"""\
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("scene", {str(SCENE)!r})
sys.modules["scene"] = scene = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scene)
torch.set_num_threads(1)
project = scene.Project(scene.Path({str(made.root)!r}))
object.__setattr__(project.compute, "checkpoint_every_seconds", -1)  # a checkpoint after every step
project.report.on_progress = lambda done: print(done, flush=True)
project.run("pretrain")
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for step in ("2", "4"):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.strip() == step:
                    time.sleep(0.002 * int(step))
                    process.kill()
                    break
        assert process.returncode == -9
    report = made.run("pretrain")
    assert any(note.startswith("resuming after step") for note in report.notes)
    assert sha256_of(made.path("checkpoints/base")) == before


def test_other_params_start_anew(made: Any) -> None:
    """Checkpoints of other params are of no use: they are removed, and training starts at the first step."""
    stopped_at(made, 2, seed=7)
    [folder] = made.path("scratch/pretrain").iterdir()
    assert [path.name for path in checkpoints(made)] == ["step-00000002"]
    assert folder.is_dir()
    report = made.run("pretrain")
    assert not any(note.startswith("resuming") for note in report.notes)


def test_another_model_s_checkpoints_are_left_alone(made: Any) -> None:
    """Training `spam` does not remove what `spam-large` would resume from."""
    (made.path("scratch") / "finetune@spam-large" / "0" / "step-00000002").mkdir(parents=True)
    (made.path("scratch") / "pretrain-large-0").mkdir(parents=True)
    made.run("pretrain", seed=8)
    made.run("finetune", "spam", seed=8)
    assert (made.path("scratch") / "finetune@spam-large" / "0" / "step-00000002").is_dir()
    assert (made.path("scratch") / "pretrain-large-0").is_dir()


def test_a_checkpoint_is_saved_every_so_many_seconds_and_two_are_kept(made: Any) -> None:
    """At the end two checkpoints are there, the newest of the last step."""
    assert [path.name for path in checkpoints(made)][-1] == "step-00000006"
    assert len(checkpoints(made)) <= 2


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"context_length": 5000, "sample_prompt": "a"},
            ConfigurationError,
            "tokens are too few for one window of 5000",
        ),
        ({"shape": "defualt"}, ConfigurationError, "pretrain: .*default"),
        ({"n_heads": 5}, ConfigurationError, "pretrain: "),
        ({"sample_prompt": "word " * 300}, ConfigurationError, "sample_prompt is longer than pretrain.context_length"),
        ({"steps": 0, "warmup_steps": 0}, ConfigurationError, "steps must be at least 1"),
        ({"evaluation_windows": -1}, ConfigurationError, "evaluation_windows is -1, but must be at least 0"),
        ({"learning_rate": 0.0}, ConfigurationError, "learning_rate is 0.0, but must be above 0"),
        ({"d_model": -8, "depth": 2}, ConfigurationError, "d_model must be at least 1, or null"),
        ({"clip_norm": -1.0, "depth": 2}, ConfigurationError, "clip_norm is -1.0, but must be at least 0"),
        (
            {"learning_rate": 1e6, "muon_learning_rate": 1e6, "steps": 40},
            DataError,
            r"11 steps in a row up to step \d+ had no finite loss and gradient .*; lower the learning rate",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    made: Any, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    """A setting that makes no model, or one that diverges, ends in one line of its kind."""
    with pytest.raises(error, match=said):
        made.run("pretrain", **changes)


def test_altered_tokens_are_refused(made: Any) -> None:
    """A flipped bit in a shard is an IntegrityError that names the shard, before a step is trained."""
    shard = made.path("tokens/train-00000.parquet")
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"train-00000\.parquet: its bytes are not those of the manifest"):
        made.run("pretrain")


def two_sources(project: Any) -> None:
    """Give every second document of the corpus another source, and tokenize that."""
    path = project.path("documents/clean/documents.parquet")
    records = [
        replace(record, source="letters" if number % 2 else "books")
        for number, record in enumerate(read_records(path, Document))
    ]
    with commit(project.path("documents/clean"), "documents", inputs={}) as draft:
        draft.facts["documents"] = write_records(records, Document, draft.path / "documents.parquet")
    project.vouch()
    project.run("tokenize")


def test_a_mixture_trains_on_its_sources_without_new_tokens(made: Any) -> None:
    """Other weights change the model and not the tokens; the run says what share each source has, and how often."""
    two_sources(made)
    tokens = made.manifest("tokens").digest
    curves = []
    for mixture in ({"books": 1.0}, {"books": 1.0, "letters": 2}):
        said = made.run("pretrain", mixture=mixture, context_length=64, max_epochs=20.0).notes
        curves.append((made.path("checkpoints/base") / "training.csv").read_text())
    assert any("66.7% of the windows from letters" in line for line in said)
    assert curves[0] != curves[1]
    assert made.manifest("tokens").digest == tokens


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixture": {"bokos": 1.0}}, "no document is of the source 'bokos'; known: books, letters"),
        ({"mixture": {"books": 1.0}, "max_epochs": 0.1}, "lower steps, raise max_epochs or add sources"),
        ({"mixture": {"books": 0.0}}, "each with a weight above 0"),
        ({"max_epochs": 2.0}, "limits the sources of a mixture only"),
        ({"packing": "boxes"}, "packing"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(made: Any, changes: dict[str, Any], said: str) -> None:
    """An unknown source, too little text under the cap, or a weight of nothing is a wrong setting, and says so."""
    two_sources(made)
    with pytest.raises(ConfigurationError, match=said):
        made.run("pretrain", context_length=64, **changes)


def test_packing_by_documents_trains_another_model(made: Any) -> None:
    """With documents kept apart the losses differ, over the same windows in the same order."""
    anew(made)
    made.run("pretrain")
    plain = (made.path("checkpoints/base") / "training.csv").read_text()
    made.run("pretrain", packing="documents")
    packed = (made.path("checkpoints/base") / "training.csv").read_text()
    assert plain != packed
    assert plain.splitlines()[0] == packed.splitlines()[0]
