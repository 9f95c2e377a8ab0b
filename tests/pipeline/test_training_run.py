"""What a training does around its steps: stopping early, going on with a change, running out of memory."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

import pipeline.stages.pretrain
import pipeline.training_run
from model.batches import TokenWindows
from model.checkpoint import load_model
from model.gpt import GPT
from pipeline.errors import (
    ConfigurationError,
    DataError,
    DependencyError,
    InputOutputError,
    IntegrityError,
    TryAgainError,
    machine_errors,
)

pytestmark = pytest.mark.slow  # a second or two of training each

LOOKS = [3.0, 2.0, 2.5, 2.1, 1.0, 0.5]


def looks_given(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let the validation find these bits per byte, step by step."""

    def watcher(*_: Any) -> Any:
        return lambda _model, step: {"validation_loss": 1.0, "bits_per_byte": values[step - 1]}

    monkeypatch.setattr(pipeline.stages.pretrain, "_watcher", watcher)


def rows(project: Any, name: str) -> list[dict[str, str]]:
    with (project.path("checkpoints/base") / name).open() as file:
        return list(csv.DictReader(file))


def stop_after(project: Any, step: int) -> None:
    """End the process's part after a step, as a scheduler would."""
    project.report.on_progress = lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == step else None


def begin(project: Any) -> None:
    """Train from nothing, and stop after the third step."""
    shutil.rmtree(project.path("scratch"))
    project.report = type(project.report)()
    stop_after(project, 3)
    with pytest.raises(TryAgainError):
        project.run("pretrain")
    project.report = type(project.report)()


def steps_into(project: Any, steps: list[int]) -> None:
    """Collect the steps that the next run takes."""
    project.report = type(project.report)()
    project.report.on_progress = steps.append


def test_training_ends_when_nothing_is_gained(made: Any, monkeypatch: pytest.MonkeyPatch, sha256_of: Any) -> None:
    """With patience 2 the second look without a gain is the last, the weights are the best look's; run again: no step.

    Stopped in between and resumed, it ends in the same bytes.
    """
    looks_given(monkeypatch, LOOKS)
    settings = {"patience": 2, "evaluate_every": 1}
    report = made.run("pretrain", **settings)
    assert "step 4: no gain in 2 looks, so training ends here" in report.notes
    assert [float(row["bits_per_byte"]) for row in rows(made, "validation.csv")] == LOOKS[:4]
    files = sha256_of(made.path("checkpoints/base"))
    steps: list[int] = []
    steps_into(made, steps)
    made.run("pretrain", **settings)
    assert not steps
    assert sha256_of(made.path("checkpoints/base")) == files
    shutil.rmtree(made.path("scratch"))
    for step in (1, 2, 3):
        made.report = type(made.report)()
        stop_after(made, step)
        with pytest.raises(TryAgainError):
            made.run("pretrain", **settings)
    made.run("pretrain", **settings)
    assert sha256_of(made.path("checkpoints/base")) == files


@pytest.mark.parametrize("patience", [0, 3])
@pytest.mark.parametrize(
    ("losses", "said"), [([1.0] * 5 + [math.inf], "step 6, .* is inf"), ([math.nan] * 6, r"step \d, .* is nan")]
)
def test_a_training_that_ends_in_nonsense_is_an_error(
    made: Any, monkeypatch: pytest.MonkeyPatch, losses: list[float], said: str, patience: int
) -> None:
    """A last look that is not finite ends with exit code 65 and no artefact; so it does when run again."""

    def watcher(*_: Any) -> Any:
        # Fewer bits per byte every time, so that patience alone would not end it.
        return lambda _model, step: {
            "validation_loss": losses[step - 1],
            "bits_per_byte": losses[step - 1] - step,
        }

    monkeypatch.setattr(pipeline.stages.pretrain, "_watcher", watcher)
    shutil.rmtree(made.path("checkpoints/base"))
    for _ in range(2):
        with pytest.raises(DataError, match=rf"^pretrain: after {said}; lower the learning rate or look") as refused:
            made.run("pretrain", evaluate_every=1, patience=patience)
        assert refused.value.exit_code == 65
    assert not made.path("checkpoints/base").exists()


@pytest.mark.parametrize(
    ("stage", "changes"), [("pretrain", {"steps": 9, "evaluate_every": 9}), ("finetune@assistant", {"epochs": 4})]
)
def test_a_training_that_diverges_in_its_last_steps_is_an_error(made: Any, stage: str, changes: dict[str, Any]) -> None:
    """Though too few of them are left to give the run up in its middle."""
    rates = {"learning_rate": 1e5, "muon_learning_rate": 1e5}
    with pytest.raises(DataError, match="the last, had no finite loss and gradient; lower the learning rate"):
        made.run(*stage.split("@"), **changes, **rates)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiler_that_fails_is_done_without_or_said(
    made: Any, monkeypatch: pytest.MonkeyPatch, sha256_of: Any, precision: str
) -> None:
    """auto goes on in one line, with the weights of a run that does not compile; true ends with exit code 69."""
    files = []
    settings = {"dropout": 0.0, "precision": precision}
    for compiled in (False, "auto"):
        report = made.run("pretrain", **settings, compile=compiled)
        files.append(sha256_of(made.path("checkpoints/base"))["model.safetensors"])
        monkeypatch.setattr("model.hardware.COMPILE_FROM_FLOPS", 0)
        monkeypatch.setattr("model.hardware._has_compiler", lambda: True)
        monkeypatch.setattr(torch, "compile", lambda _loss: failing)
    assert files[0] == files[1]
    assert [note for note in report.notes if "compile" in note] == ["not compiled, for the compiler failed: no g++"]
    with pytest.raises(DependencyError, match=r"^pretrain: compile is true, but the compiler failed \(no g\+\+\);"):
        made.run("pretrain", **settings, compile=True)


def failing(*_: Any, **__: Any) -> None:
    """As a compiled loss whose compiler fails."""
    raise TorchDynamoException("no g++\nwith more to say")


def spoiled_from(monkeypatch: pytest.MonkeyPatch, first: int, last: int = 1000) -> None:
    """Let the steps with these numbers have no finite loss."""
    loss, add = GPT.loss, pipeline.training_run._History.add
    done = 0

    def spoiled(self: GPT, *args: Any, **settings: Any) -> torch.Tensor:
        return loss(self, *args, **settings) * (math.nan if first <= done + 1 <= last else 1.0)

    def adding(self: Any, row: dict[str, float]) -> None:
        nonlocal done
        done = int(row["step"])
        add(self, row)

    monkeypatch.setattr(GPT, "loss", spoiled)
    monkeypatch.setattr(pipeline.training_run._History, "add", adding)


def test_a_run_that_diverges_leaves_the_checkpoints_from_before(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one is due after every step, none is written while the figures are not finite."""
    spoiled_from(monkeypatch, 8)
    object.__setattr__(made.compute, "checkpoint_every_seconds", -1)  # after every step
    with pytest.raises(DataError, match="11 steps in a row up to step 18 had no finite loss and gradient"):
        made.run("pretrain", steps=20)
    kept = sorted(made.path("scratch").glob("pretrain/*/step-*"))
    assert [path.name for path in kept] == ["step-00000006", "step-00000007"]
    assert [json.loads((path / "state.json").read_text())["skipped_in_a_row"] for path in kept] == [0, 0]


def test_a_run_stopped_after_a_step_without_figures_goes_on_to_the_same_end(
    made: Any, monkeypatch: pytest.MonkeyPatch, sha256_of: Any
) -> None:
    """It is saved as it is, with how many such steps there were in a row."""
    spoiled_from(monkeypatch, 2, 3)
    made.run("pretrain", seed=8)
    files = sha256_of(made.path("checkpoints/base"))
    shutil.rmtree(made.path("scratch"))
    made.report = type(made.report)()
    stop_after(made, 2)
    with pytest.raises(TryAgainError, match="stopped after step 2 of 6 with everything saved"):
        made.run("pretrain", seed=8)
    [saved] = made.path("scratch").glob("pretrain/*/step-*")
    assert json.loads((saved / "state.json").read_text())["skipped_in_a_row"] == 1
    made.run("pretrain", seed=8)
    assert sha256_of(made.path("checkpoints/base")) == files


def test_a_look_that_is_not_finite_is_no_gain(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it comes first or later, the best is that of the finite ones."""
    looks_given(monkeypatch, [math.nan, 3.0, 2.0, math.nan, 1.0, 1.5])
    made.run("pretrain", patience=3, evaluate_every=1)
    assert [path.name for path in made.path("scratch").glob("pretrain/*/best-*")][-1:] == ["best-00000005"]


class Killed(Exception):
    """As if the process were killed."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the process's part once a step's weights were found the best and kept, before its checkpoint."""
    add = pipeline.training_run._History.add

    def adding(self: Any, row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Killed
        add(self, row)

    monkeypatch.setattr(pipeline.training_run._History, "add", adding)


@pytest.mark.parametrize("before", [[3.0, 2.0, 1.0], [3.0, 2.0, 1.9, 1.8, 1.0]])
def test_the_best_weights_are_those_of_the_steps_that_count(
    made: Any, monkeypatch: pytest.MonkeyPatch, sha256_of: Any, before: list[float]
) -> None:
    """A run is killed after a look that was the best, and what is done again from the checkpoint before is not as good.

    On a GPU no step is bitwise the same again. The best up to the checkpoint are kept, those after it forgotten.
    """
    settings = {"patience": 2, "evaluate_every": 1}
    after = [3.0, 2.0, 2.5, 2.6]
    looks_given(monkeypatch, after)
    made.run("pretrain", **settings)
    files = sha256_of(made.path("checkpoints/base"))
    shutil.rmtree(made.path("scratch"))
    made.report = type(made.report)()
    stop_after(made, 2)
    with pytest.raises(TryAgainError):
        made.run("pretrain", **settings)
    made.report = type(made.report)()
    with monkeypatch.context() as patch:
        looks_given(patch, before)
        killed_at(patch, len(before))
        with pytest.raises(Killed):
            made.run("pretrain", **settings)
    made.run("pretrain", **settings)
    assert sha256_of(made.path("checkpoints/base")) == files


def test_one_set_of_best_weights_is_kept(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many looks were better than those before: that of the newest, and of the one a resumed run would need."""
    looks_given(monkeypatch, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    made.run("pretrain", patience=2, evaluate_every=1, seed=8)
    assert [path.name for path in made.path("scratch").glob("pretrain/*/*best*")] == ["best-00000006"]


@pytest.mark.parametrize("patience", [0, 9])
def test_a_step_does_not_go_through_the_rows_before_it(
    made: Any, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """They are read when training begins, however many steps and looks follow."""
    begin, read = pipeline.training_run._History.__init__, []

    class Counted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            read.append(len(self))
            return super().__iter__()

    def counting(self: Any, *args: Any, **settings: Any) -> None:
        begin(self, *args, **settings)
        self.rows = Counted(self.rows)

    monkeypatch.setattr(pipeline.training_run._History, "__init__", counting)
    monkeypatch.setattr(pipeline.stages.pretrain, "write_csv", lambda *_: None)
    monkeypatch.setattr(pipeline.stages.pretrain, "draw_curves", lambda *_: None)
    looks_given(monkeypatch, LOOKS)
    made.run("pretrain", patience=patience, evaluate_every=1, seed=8)
    assert sum(read) == 0


def test_the_running_mean_is_what_is_kept(made: Any) -> None:
    """With ema_decay the artefact's weights are not the last ones, and equal after stop and resume."""
    made.run("pretrain")
    plain = load_model(made.path("checkpoints/base"))
    made.run("pretrain", ema_decay=0.9)
    averaged = load_model(made.path("checkpoints/base"))
    assert not torch.equal(plain.token_embedding.weight, averaged.token_embedding.weight)
    shutil.rmtree(made.path("scratch"))
    made.report = type(made.report)()
    stop_after(made, 4)
    with pytest.raises(TryAgainError):
        made.run("pretrain", ema_decay=0.9)
    made.run("pretrain", ema_decay=0.9)
    again = load_model(made.path("checkpoints/base"))
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), again.parameters(), strict=True))


def test_going_on_with_other_threads_is_refused_or_recorded(made: Any) -> None:
    """Two threads do not go on where one stopped (77), unless params allow it; then the artefact says what changed."""
    begin(made)
    made.compute = replace(made.compute, threads=2)
    with pytest.raises(IntegrityError, match=r"threads was 1, is 2.*compute\.allow_changed_resume") as refused:
        made.run("pretrain")
    assert refused.value.exit_code == 77
    made.compute = replace(made.compute, allow_changed_resume=True)
    report = made.run("pretrain")
    change = "threads was 1, is 2"
    assert f"the run goes on with a change, so its weights will differ in their last bits: {change}" in report.notes
    assert made.manifest("checkpoints/base").facts["resumed_with_changes"] == [f"from step 3: {change}"]


def edited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the code that trains had been edited since."""
    monkeypatch.setattr(pipeline.stages.pretrain, "code_of", lambda _module: "edited")


@pytest.mark.parametrize("patience", [0, 2])
def test_what_other_code_finished_is_trained_anew(
    made: Any, monkeypatch: pytest.MonkeyPatch, sha256_of: Any, patience: int
) -> None:
    """Every step, saying so, also where patience had ended it; and with the same code none."""
    looks_given(monkeypatch, LOOKS)
    settings = {"patience": patience, "evaluate_every": 1}
    made.run("pretrain", **settings)
    files = sha256_of(made.path("checkpoints/base"))
    steps: list[int] = []
    steps_into(made, steps)
    made.run("pretrain", **settings)
    assert not steps
    edited(monkeypatch)
    steps_into(made, steps)
    report = made.run("pretrain", **settings)
    assert steps == [int(row["step"]) for row in rows(made, "training.csv")]
    assert [note for note in report.notes if "trained before, but not so: code was" in note]
    assert sha256_of(made.path("checkpoints/base")) == files


def test_what_other_code_began_is_not_gone_on_with(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused (77) and kept, until its own code is back."""
    begin(made)
    with monkeypatch.context() as patch:
        edited(patch)
        with pytest.raises(IntegrityError, match=r"code was .*put that back"):
            made.run("pretrain")
    report = made.run("pretrain")
    assert [note for note in report.notes if note.startswith("resuming after step 3 of")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("stage", ["pretrain", "finetune@spam", "evaluate@base"])
def test_a_gpu_that_is_not_there_is_said(made: Any, stage: str) -> None:
    """Every stage that computes ends with one line and exit code 64, and none goes on with the CPU."""
    made.compute = replace(made.compute, device="cuda")
    with pytest.raises(ConfigurationError, match=r"^compute\.device: is cuda, but torch .* choose auto or cpu$"):
        made.run(*stage.split("@"))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_running_out_of_memory_comes_with_advice(made: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The host's or the device's: exit code 74, and what to lower."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(TokenWindows, "__call__", fail)
    with (
        pytest.raises(InputOutputError, match=r"out of memory; lower .*batch.size") as refused,
        machine_errors("pretrain"),
    ):
        made.run("pretrain", seed=9)
    assert refused.value.exit_code == 74


def test_a_spike_is_left_out_and_said(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is skipped has no loss in the curve, and a line of its own."""
    draw = TokenWindows.__call__

    def spoiled(self: TokenWindows, position: int) -> Any:
        batch = draw(self, position)
        return replace(batch, targets=torch.full_like(batch.targets, 299)) if position == 40 else batch

    monkeypatch.setattr(TokenWindows, "__call__", spoiled)
    report = made.run("pretrain", steps=44, evaluate_every=44, spike_threshold=3.0)
    assert [note for note in report.notes if "left out" in note and note.startswith("step 41: loss ")]
    training = rows(made, "training.csv")
    assert [row["step"] for row in training if row["train_loss"]] == [str(n) for n in range(1, 45) if n != 41]


def test_the_record_says_how_fast_and_how_busy(made: Any) -> None:
    """Tokens per second, the share of the peak, the gradient and the machine's load go to the run's record only."""
    report = made.run("pretrain", seed=5)
    assert {"tokens_per_second", "mfu", "grad_norm", "system/system_memory_usage_megabytes"} <= report.numbers.keys()
    assert 0 < report.numbers["mfu"] < 1.5
    assert "mfu" not in json.dumps(made.manifest("checkpoints/base").facts)
