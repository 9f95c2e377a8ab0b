"""What a training will take is said before it starts, refused where it does not fit, and compared afterwards."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import pipeline.training_run
from model.presets import preset
from model.training import TrainingConfig
from pipeline.errors import InputOutputError
from pipeline.params import Compute
from pipeline.training_plan import PACES, Plan, Stopwatch, as_lines, as_object, make_plan, refuse_what_does_not_fit

COMPUTE = Compute("cpu", 1, 3600)


def plan_in(root: Path, **changes: Any) -> Plan:
    """The plan of a small training in a folder."""
    config = preset("default", n_layers=1, context_length=64)
    settings: dict[str, Any] = {"batch_size": 2, "compute": COMPUTE, "corpus_tokens": 1000, "models": 3, "root": root}
    return make_plan(config, TrainingConfig(steps=10, precision="float32"), **{**settings, **changes})


def test_a_plan_says_what_training_takes(tmp_path: Path) -> None:
    """Tokens are steps × batch × context, time follows from a measured rate, and all is on the screen and in JSON."""
    plan = plan_in(tmp_path)
    assert plan.tokens == 10 * 2 * 64 and plan.flops == plan.tokens * plan.flops_per_token
    assert plan.seconds > 0 and "GFLOP/s of matrix products" in plan.seconds_from
    text = "\n".join(as_lines(plan))
    for part in (
        f"{plan.parameters.total:,}",
        "token embedding",
        "1.28 times through the corpus",
        "checkpoints to res",
    ):
        assert part in text
    made = json.loads(json.dumps(as_object(plan)))
    assert made["memory_total"] == plan.memory.total and made["disk_total"] == sum(plan.disk.values())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """One line names how much is needed, how much there is, and what to change."""
    plan = plan_in(tmp_path, batch_size=100_000)
    with pytest.raises(InputOutputError, match=r"needs .* GiB of memory .* most of it for activations; .*batch_size"):
        refuse_what_does_not_fit(plan)
    plan = dataclasses.replace(plan_in(tmp_path), disk_free=1000)
    with pytest.raises(InputOutputError, match=r"will write 0\.\d\d GiB where the disk has 0\.00 GiB free"):
        refuse_what_does_not_fit(plan)
    plan = dataclasses.replace(plan_in(tmp_path), host_memory=2**40, host_memory_free=2**30)
    with pytest.raises(InputOutputError, match=r"a checkpoint needs 1,024 GiB of this machine's memory, .* 1\.00 GiB"):
        refuse_what_does_not_fit(plan)
    refuse_what_does_not_fit(plan_in(tmp_path))


def test_a_running_mean_is_counted(tmp_path: Path) -> None:
    """It is a copy of the weights in memory, and in each of the three checkpoints."""
    config = preset("default", n_layers=1, context_length=64)
    without, with_mean = (
        make_plan(
            config,
            TrainingConfig(steps=10, precision="float32", ema_decay=decay),
            batch_size=2, compute=COMPUTE, corpus_tokens=None, models=1, root=tmp_path,
        )
        for decay in (0.0, 0.999)
    )  # fmt: skip
    weights = 4 * config.parameter_count()
    assert (without.memory.averaged, with_mean.memory.averaged) == (0, weights)
    assert sum(with_mean.disk.values()) - sum(without.disk.values()) == 3 * weights


def test_processes_are_counted_together(tmp_path: Path) -> None:
    """Each of two has half of the rows and the whole model, or half of it; of what all have, the first alone saves."""
    one = plan_in(tmp_path)
    two = plan_in(tmp_path, compute=dataclasses.replace(COMPUTE, processes=2))
    assert one.memory_needed == one.memory.total
    assert two.memory_needed == 2 * two.memory.total - two.memory.checkpoint > one.memory_needed
    assert two.memory.weights == one.memory.weights and two.memory.activations < one.memory.activations
    sharded = plan_in(tmp_path, compute=dataclasses.replace(COMPUTE, processes=2, shard_model=True))
    assert sharded.memory_needed == 2 * sharded.memory.total
    assert 2 * sharded.memory.optimizer == one.memory.optimizer
    assert len({one.pace_key, two.pace_key, sharded.pace_key}) == 3
    full = dataclasses.replace(two, memory_free=two.memory.total)
    with pytest.raises(InputOutputError, match=r"of memory for 2 processes where cpu .* or compute\.processes"):
        refuse_what_does_not_fit(full)


def test_the_next_plan_of_the_same_shape_knows_the_pace(tmp_path: Path) -> None:
    """After a whole training its tokens per second are remembered, for this shape and this batch alone."""
    plan = plan_in(tmp_path)
    assert set(Stopwatch(plan, root=tmp_path).compare(whole=False)) == {"plan_memory_ratio"}
    assert not (tmp_path / PACES).exists()
    ratios = Stopwatch(plan, root=tmp_path).compare(whole=True)
    assert ratios["plan_time_ratio"] > 0
    assert plan_in(tmp_path).seconds == pytest.approx(ratios["plan_time_ratio"] * plan.seconds)
    assert "the last run of this shape made" in plan_in(tmp_path).seconds_from
    assert "the last run" not in plan_in(tmp_path, batch_size=3).seconds_from


def test_pretraining_says_how_far_off_its_plan_was(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training says so, though another was finished before it, and remembers its pace.

    One that had nothing to do, or that ended before its last step, has no pace.
    """
    for seed in (7, 8):
        (made.root / PACES).unlink(missing_ok=True)
        report = made.run("pretrain", seed=seed)
        assert {"plan_time_ratio", "plan_memory_ratio"} <= set(report.numbers)
        assert (made.root / PACES).exists()
    assert "plan_time_ratio" not in made.run("pretrain", seed=8).numbers
    monkeypatch.setattr(pipeline.training_run._Looks, "in_vain", property(lambda looks: looks.best_step > 0))
    assert "plan_time_ratio" not in made.run("pretrain", seed=9, patience=1).numbers


def test_pretraining_refuses_what_does_not_fit(made: Any) -> None:
    """A batch that no memory holds is refused before anything is made."""
    shutil.rmtree(made.path("checkpoints/base"))
    with pytest.raises(InputOutputError, match=r"needs .* of memory"):
        made.run("pretrain", batch_size=10_000_000)
    assert not made.path("checkpoints/base").exists()


def test_a_depth_is_enough(made: Any) -> None:
    """With a depth, what is 0 or null follows from it, and what is given stays."""
    nothing = dict.fromkeys(("context_length", "batch_size", "gradient_accumulation", "evaluate_every"), 0)
    made.run("pretrain", depth=1, **nothing, n_layers=None, n_heads=None, d_model=None, steps=2, warmup_steps=0)
    config = json.loads((made.path("checkpoints/base") / "config.json").read_text())
    assert (config["n_layers"], config["d_model"], config["context_length"]) == (1, 64, 256)
