"""Checkpoints: resuming equals never having stopped, and nothing half-written is ever taken for whole."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import checkpoint
from model.batches import Example, Examples, TokenWindows
from model.checkpoint import (
    CheckpointMismatch,
    CheckpointSaver,
    CorruptCheckpoint,
    load_checkpoint,
    load_model,
    save_model,
)
from model.gpt import GPT, GPTConfig
from model.training import TrainingConfig, TrainingState, train

SMALL: dict[str, Any] = {"vocab_size": 64, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 32}
TEXT = np.random.default_rng(0).integers(0, 64, 3000).astype(np.uint16)
DATA = {"tokens": "sha256:abc", "batch_size": 8}


def start(**changes: Any) -> TrainingState:
    """A new run of six steps."""
    torch.manual_seed(0)
    dropout = changes.pop("dropout", 0.1)
    model = GPT(GPTConfig(**SMALL, dropout=dropout))
    return TrainingState(model, TrainingConfig(**{"steps": 6, "learning_rate": 0.01, "warmup_steps": 2, **changes}))


def go_on(state: TrainingState, until: int = 6) -> None:
    """Train up to a step, as a stage does."""
    batches = TokenWindows(TEXT, context_length=16, batch_size=8, seed=0)
    steps = train(state.model, batches, state.config, state)
    while state.step < until:
        next(steps)


def save_checkpoint(folder: Path, state: TrainingState, fingerprint: dict[str, Any]) -> None:
    """Save, and wait until it is done."""
    with CheckpointSaver(folder, fingerprint) as saver:
        saver.save(state)


def bits(state: TrainingState) -> bytes:
    """Every weight, to the last bit."""
    return b"".join(weight.detach().numpy().tobytes() for weight in state.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "precision", "threads", "all_stops"),
    [
        ("muon", "float32", 1, ([1], [2], [5], [2, 4])),
        ("muon", "bfloat16", 1, ([1], [2], [5], [2, 4])),
        ("adamw", "bfloat16", 1, ([3], [2, 4])),
        # Two threads on a busy machine spend their time waiting for each other.
        pytest.param("adamw", "float32", 2, ([3],), marks=pytest.mark.slow),
        pytest.param("muon", "bfloat16", 2, ([2],), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped(
    optimizer: str, precision: str, threads: int, all_stops: tuple[list[int], ...], tmp_path: Path
) -> None:
    """Stopped after any step and resumed from disk, a run ends in the same bits; so it does when stopped twice."""
    torch.set_num_threads(threads)
    settings = {"optimizer": optimizer, "precision": precision}
    whole = start(**settings)
    go_on(whole)
    for stops in all_stops:
        folder = tmp_path / "-".join(map(str, stops))
        state = start(**settings)
        for stop in stops:
            go_on(state, until=stop)
            save_checkpoint(folder, state, DATA)
            state = start(**settings)
            torch.rand(3)
            resumed = load_checkpoint(folder, state, DATA)
            assert resumed is not None and resumed.step == stop == state.step
        go_on(state)
        assert bits(state) == bits(whole), f"stopped at {stops}"
        assert state.tokens_seen == whole.tokens_seen


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    """Torch's, NumPy's and Python's generators give after a resume what they would have given."""
    state = start()
    save_checkpoint(tmp_path, state, DATA)

    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.rand(), random.random()

    expected = draw()
    load_checkpoint(tmp_path, state, DATA)
    assert draw() == expected


def saved_at(folder: Path, *steps: int) -> None:
    """A folder with checkpoints of these steps."""
    state = start()
    for step in steps:
        go_on(state, until=step)
        save_checkpoint(folder, state, DATA)


def test_without_a_checkpoint_a_run_starts_anew(tmp_path: Path) -> None:
    """A missing or empty folder is no error."""
    assert load_checkpoint(tmp_path / "none", start(), DATA) is None
    assert load_checkpoint(tmp_path, start(), DATA) is None


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    """Older checkpoints go, and so do the remains of an interrupted save."""
    (tmp_path / ".step-00000001.partial").mkdir()
    saved_at(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_what_has_its_name_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it is, and only when a third is to be removed; the third stays while the second is not whole."""
    read: list[str] = []
    digest = checkpoint._digest

    def noted(path: Path, **options: bool) -> str:
        if not path.parent.name.endswith(".partial"):
            read.append(path.parent.name)
        return digest(path, **options)

    monkeypatch.setattr(checkpoint, "_digest", noted)
    saved_at(tmp_path, 1, 2)
    assert read == []
    saved_at(tmp_path, 3)
    assert set(read) == {"step-00000002"}
    (tmp_path / "step-00000003" / "state.json").write_text("torn")
    saved_at(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-0000000{n}" for n in (2, 3, 4)]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "digests.json"])
@pytest.mark.parametrize("fault", ["truncate", "flip", "delete"])
def test_a_torn_or_altered_checkpoint_is_passed_over(name: str, fault: str, tmp_path: Path) -> None:
    """Whichever file is damaged, and however, the one before is taken and the damage is named."""
    saved_at(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    content = bytearray(path.read_bytes())
    if fault == "delete":
        path.unlink()
    elif fault == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    state = start()
    resumed = load_checkpoint(tmp_path, state, DATA)
    assert resumed is not None and resumed.step == 1 == state.step
    assert len(resumed.skipped) == 1 and resumed.skipped[0].startswith("step-00000002: ")
    go_on(state, until=2)
    save_checkpoint(tmp_path, state, DATA)
    assert load_checkpoint(tmp_path, start(), DATA).step == 2  # type: ignore[union-attr]


def test_where_every_checkpoint_is_damaged_a_run_starts_anew(tmp_path: Path) -> None:
    """The state stays as it was, each damage is named, and the next checkpoint leaves none of the damaged behind."""
    saved_at(tmp_path, 4, 5)
    for path in tmp_path.iterdir():
        (path / "model.safetensors").unlink()
    state = start()
    before = bits(state)
    resumed = load_checkpoint(tmp_path, state, DATA)
    assert resumed is not None and (resumed.step, resumed.path) == (0, None) == (state.step, None)
    assert resumed.skipped == tuple(f"step-0000000{step}: model.safetensors is missing" for step in (5, 4))
    assert bits(state) == before
    go_on(state, until=2)
    save_checkpoint(tmp_path, state, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_full_disk_leaves_earlier_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, the error comes through, nothing half-made stays, and the one before is still whole."""
    saved_at(tmp_path, 1)
    state = start()
    load_checkpoint(tmp_path, state, DATA)
    go_on(state, until=2)
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, state, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("changes", "data", "threads", "said"),
    [
        ({}, {**DATA, "tokens": "sha256:xyz"}, 1, "tokens was 'sha256:abc', is 'sha256:xyz'"),
        ({"learning_rate": 0.02}, DATA, 1, "training.learning_rate was 0.01, is 0.02"),
        ({"precision": "float32"}, DATA, 1, "precision was"),
        ({"dropout": 0.0}, DATA, 1, "model.dropout was 0.1, is 0.0"),
        ({}, DATA, 2, "threads was 1, is 2"),
    ],
)
def test_another_runs_checkpoint_is_refused(
    changes: dict[str, Any], data: dict[str, Any], threads: int, said: str, tmp_path: Path
) -> None:
    """Other data, settings, precision or threads would not give the same weights: refused, or allowed and recorded."""
    state = start(precision="bfloat16")
    save_checkpoint(tmp_path, state, DATA)
    torch.set_num_threads(threads)
    other = start(**{"precision": "bfloat16", **changes})
    with pytest.raises(CheckpointMismatch, match=said):
        load_checkpoint(tmp_path, other, data)
    resumed = load_checkpoint(tmp_path, other, data, allow_changes=True)
    assert resumed is not None and any(said in change for change in resumed.changes)


def test_muon_in_another_precision_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has no bfloat16 does not go on unasked where one that has it stopped."""
    monkeypatch.setattr("model.hardware._cpu_multiplies_bfloat16", lambda: True)
    save_checkpoint(tmp_path, start(precision="float32", optimizer="muon"), DATA)
    monkeypatch.setattr("model.hardware._cpu_multiplies_bfloat16", lambda: False)
    with pytest.raises(CheckpointMismatch, match=r"optimizers was \['Muon', 'AdamW'\], is \['Float32Muon', 'AdamW'\]"):
        load_checkpoint(tmp_path, start(precision="float32", optimizer="muon"), DATA)


def test_saving_and_loading_a_model_keeps_every_bit(tmp_path: Path) -> None:
    """A loaded model has the same configuration and weights, and the files depend on nothing else."""
    model = start().model
    save_model(tmp_path / "a", model)
    loaded = load_model(tmp_path / "a")
    assert loaded.config == model.config and not loaded.training
    ids = torch.randint(0, 64, (2, 16))
    assert torch.equal(loaded(ids), model.eval()(ids))
    save_model(tmp_path / "b", loaded)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_model_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """A missing file, a truncated one, and weights of another shape are named."""
    with pytest.raises(CorruptCheckpoint, match=r"config\.json: missing"):
        load_model(tmp_path)
    save_model(tmp_path, start().model)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"d_ff": 64}))
    with pytest.raises(
        CorruptCheckpoint, match=r"blocks\.0\.mlp\.down\.weight should be \(32, 64\), found \(32, 128\)"
    ):
        load_model(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptCheckpoint, match="cannot be read as a model"):
        load_model(tmp_path)


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_resuming_at_any_step_gives_the_same_bits(kind: str, threads: int, tmp_path: Path) -> None:
    """Stopped after each of five steps and resumed, pretraining and fine-tuning end bit for bit as if never stopped.

    Everything optional is on: dropout, running mean, z-loss, the watch for spikes, accumulation.
    """
    torch.set_num_threads(threads)
    everything = {"ema_decay": 0.9, "z_loss": 1e-3, "spike_threshold": 6.0, "gradient_accumulation": 2}
    if kind == "pretrain":
        batches: Any = TokenWindows(TEXT, context_length=16, batch_size=8, seed=0)
    else:
        examples = [Example([n % 60, 5, 9][: 1 + n % 3], n % 2) for n in range(40)]
        batches = Examples(examples, batch_size=8, seed=0, padding_id=0)

    def new() -> TrainingState:
        torch.manual_seed(0)
        model = GPT(GPTConfig(**SMALL, dropout=0.1))
        if kind == "finetune":
            model = model.with_classifier(2)
        trainable = "all" if kind == "pretrain" else "last_block"
        config = TrainingConfig(steps=6, learning_rate=0.01, warmup_steps=2, trainable=trainable, **everything)
        return TrainingState(model, config, "cpu")

    def everything_in(state: TrainingState) -> list[bytes]:
        tensors = [*state.model.state_dict().values(), *state.averaged.values()]
        return [tensor.detach().numpy().tobytes() for tensor in tensors]

    whole = new()
    steps = train(whole.model, batches, whole.config, whole)
    with CheckpointSaver(tmp_path / "all", DATA) as saver:
        for step in steps:
            if step.step < 6:
                saver.save(whole)
                saver.wait()
                shutil.copytree(tmp_path / "all" / f"step-{step.step:08d}", tmp_path / f"{step.step}" / "step-00000000")
    for stop in range(1, 6):
        state = new()
        resumed = load_checkpoint(tmp_path / f"{stop}", state, DATA)
        assert resumed is not None and state.step == stop
        list(train(state.model, batches, state.config, state))
        assert everything_in(state) == everything_in(whole), f"stopped after step {stop}"
        assert list(state.spikes.past) == list(whole.spikes.past)


def test_what_is_saved_beside_the_training_is_the_moment_of_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the thread still writes, training goes on; the files are bitwise those of a save that waited."""
    save_checkpoint(tmp_path / "waited", at_step(2), DATA)
    may_write = threading.Event()
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", lambda descriptor: (may_write.wait(20), fsync(descriptor))[1])
    state = at_step(2)
    with CheckpointSaver(tmp_path / "beside", DATA) as saver:
        saver.save(state)
        go_on(state, until=5)
        may_write.set()
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [tmp_path / way / "step-00000002" / name for way in ("waited", "beside")]
        assert files[0].read_bytes() == files[1].read_bytes()


def at_step(step: int) -> TrainingState:
    """A run after so many steps."""
    state = start()
    go_on(state, until=step)
    return state


def test_an_error_of_the_saving_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk shows at the next look, at the next save, and at the latest at the end."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    state = start()
    with pytest.raises(OSError, match="No space left"), CheckpointSaver(tmp_path, DATA) as saver:
        saver.save(state)
    with pytest.raises(OSError, match="No space left"), CheckpointSaver(tmp_path, DATA) as saver:
        saver.save(state)
        saver.save(state)
    with pytest.raises(OSError, match="No space left"), CheckpointSaver(tmp_path, DATA) as saver:
        saver.save(state)
        for _ in range(1000):
            saver.raise_errors()
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_change_at_a_resume_stays_on_record(tmp_path: Path) -> None:
    """Once a run went on with other threads, every later checkpoint of it says so."""
    save_checkpoint(tmp_path, at_step(1), DATA)
    torch.set_num_threads(2)
    state = start()
    load_checkpoint(tmp_path, state, DATA, allow_changes=True)
    save_checkpoint(tmp_path, state, DATA)
    again = start()
    assert load_checkpoint(tmp_path, again, DATA).changes == ()  # type: ignore[union-attr]
    assert again.changes == ("from step 1: threads was 1, is 2",)
