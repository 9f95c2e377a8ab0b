"""The plan's arithmetic against real models: their parameters exactly, their memory to a stated tolerance."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model import cross_entropy, plan
from model.gpt import GPTConfig
from model.presets import PRESETS, preset
from model.softmax_attention import BLOCKWISE_LIMIT, QUERIES_AT_ONCE

REPOSITORY = Path(__file__).resolve().parents[2]
MEMORY_TOLERANCE = 0.25

TRAINING = """
import json, sys, tempfile
from pathlib import Path
import numpy as np, psutil
import torch
from model.batches import TokenWindows
from model.checkpoint import CheckpointSaver
from model.gpt import GPT, GPTConfig
from model.training import TrainingConfig, TrainingState, train
values, batch_size, precision, optimizer, ema_decay = json.loads(sys.argv[1])
torch.set_num_threads(1)
settings = TrainingConfig(steps=2, optimizer=optimizer, precision=precision, ema_decay=ema_decay)
def learn(config, rows):
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 100_000)
    model = GPT(config)
    batches = TokenWindows(tokens, config.context_length, rows, 0)
    state = TrainingState(model, settings, "cpu")
    with tempfile.TemporaryDirectory() as folder, CheckpointSaver(Path(folder), {}) as saver:
        for step in train(model, batches, settings, state):
            saver.save(state)
small = {"vocab_size": 64, "context_length": 8, "n_layers": 1, "n_heads": 1, "d_model": 8, "d_ff": 8}
learn(GPTConfig(**{**values, **small}), 1)  # what torch loads once
before = psutil.Process().memory_info().rss
learn(GPTConfig(**values), batch_size)
status = Path("/proc/self/status").read_text()  # ru_maxrss would count what the parent held at the fork
print(int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before)
"""
WIDE: dict[str, Any] = {"n_layers": 4, "n_heads": 4, "d_model": 256}
HEAVY: dict[str, Any] = {"n_layers": 3, "n_heads": 16, "d_model": 1024}
"""With a small batch its weights take more than all else."""
GPT2: dict[str, Any] = {"norm": "layernorm", "positions": "learned", "mlp": "gelu", "linear_bias": True}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_by_part_add_up_to_the_models(name: str) -> None:
    """For every preset, and as a classifier, the sum of the parts is what the built model has."""
    for changes in ({}, {"n_classes": 3}, {"n_layers": 3, "tied_head": False}):
        config = preset(name, **changes)
        assert plan.parameters(config).total == config.parameter_count()


def test_the_tutorials_model_has_the_tutorials_parts() -> None:
    """163,009,536 parameters, of which the head has 38,597,376."""
    parts = plan.parameters(preset("seed-124m"))
    assert (parts.total, parts.head, parts.total - parts.head) == (163_009_536, 38_597_376, 124_412_160)


def test_operations_for_a_token_are_those_of_the_papers() -> None:
    """GPT-2's 124M does 6 for each weight and bias of its blocks and head, and 113 million for attention."""
    blocks = 12 * (12 * 768**2 + 9 * 768)
    flops = 6 * (blocks + 50_257 * 768) + 12 * 12 * 768 * 1024
    assert plan.training_flops_per_token(preset("gpt2-124m"), 1024) == flops


def test_operations_are_counted_by_hand_too() -> None:
    """One layer of width 2: 4 matrices of 2 × 2, two of 2 × 8, the head of 2 × 4; 12 × 1 × 2 × 3. Nothing is looked up.

    A classifier multiplies its own head, however the language model's is made.
    """
    shape: dict[str, Any] = {"vocab_size": 4, "context_length": 3, "n_layers": 1, "n_heads": 1, "d_model": 2}
    for tied_head in (False, True):
        config = GPTConfig(**shape, mlp="gelu", d_ff=8, tied_head=tied_head)
        assert plan.training_flops_per_token(config, 3) == 6 * (4 * 4 + 2 * 16 + 8) + 12 * 2 * 3
        classifier = dataclasses.replace(config, n_classes=3)
        assert plan.training_flops_per_token(classifier, 3) == 6 * (4 * 4 + 2 * 16 + 6) + 12 * 2 * 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
@pytest.mark.parametrize(
    ("values", "batch_size", "precision", "optimizer", "ema_decay"),
    [
        ({"vocab_size": 4096, "context_length": 256, **WIDE, "tied_head": False}, 2, "bfloat16", "muon", 0.0),
        ({"vocab_size": 4096, "context_length": 256, **WIDE, **GPT2}, 8, "float32", "adamw", 0.0),
        ({"vocab_size": 50_257, "context_length": 128, **WIDE}, 2, "float32", "adamw", 0.0),
        ({"vocab_size": 512, "context_length": 512, **WIDE, "dropout": 0.1}, 4, "float32", "adamw", 0.0),
        ({"vocab_size": 4096, "context_length": 64, **HEAVY}, 2, "float32", "adamw", 0.0),
        ({"vocab_size": 4096, "context_length": 64, **HEAVY}, 2, "bfloat16", "muon", 0.999),
    ],
)
def test_memory_is_what_training_takes(
    values: Any, batch_size: int, precision: Any, optimizer: str, ema_decay: float
) -> None:
    """The peak of a process that trains two steps and saves each lies within a quarter of the plan."""
    config = GPTConfig(**values)
    planned = plan.training_memory(
        config,
        batch_size=batch_size,
        context_length=config.context_length,
        bfloat16=precision == "bfloat16",
        muon=optimizer == "muon",
        averaged=ema_decay > 0,
        on_cpu=True,
        keeps_attention=config.context_length <= BLOCKWISE_LIMIT,
    )
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, json.dumps([values, batch_size, precision, optimizer, ema_decay])],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) / (planned.total - planned.runtime) == pytest.approx(1, abs=MEMORY_TOLERANCE)


def test_more_of_anything_takes_more() -> None:
    """Memory grows with the batch, the context, the depth; fused attention keeps no weights."""
    small = preset("default")
    base: dict[str, Any] = {"batch_size": 4, "context_length": 256, "bfloat16": True, "muon": True}
    base |= {"averaged": False, "on_cpu": True, "keeps_attention": True}

    def total(config: GPTConfig = small, **changes: Any) -> int:
        return plan.training_memory(config, **{**base, **changes}).total

    assert total() < min(total(batch_size=5), total(context_length=257), total(bfloat16=False), total(muon=False))
    assert total() < total(preset("default", n_layers=5))
    assert total(on_cpu=False) < total() and total(keeps_attention=False) < total()
    assert plan.checkpoint_bytes(small, muon=False, averaged=False) == 12 * small.parameter_count()
    assert plan.checkpoint_bytes(small, muon=False, averaged=True) == 16 * small.parameter_count()


def test_the_plan_knows_the_models_constants() -> None:
    """What the plan repeats, so as not to load torch, is what the code has."""
    for name in ("LOGITS_PER_CHUNK", "LOGITS_PER_GPU_CHUNK", "FEWEST_ROWS"):
        assert getattr(plan, name) == getattr(cross_entropy, name)
    in_float32_or_not = {str(kind) == "torch.bfloat16": size for kind, size in QUERIES_AT_ONCE.items()}
    assert in_float32_or_not == plan.QUERIES_AT_ONCE


def test_planning_needs_no_torch() -> None:
    """The arithmetic and the dial load neither torch nor numpy."""
    code = "import sys, model.plan, model.dial; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
