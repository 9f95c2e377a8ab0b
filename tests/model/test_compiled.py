"""The real compiler: what it makes trains as the model itself does, and is found again by a later process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

TRAINING = """
import json, sys
import torch
from model import hardware
from model.batches import TokenWindows
from model.gpt import GPT, GPTConfig
from model.training import TrainingConfig, TrainingState, train
hardware.COMPILE_FROM_FLOPS = 0
compiled, z_loss = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
model = GPT(GPTConfig(vocab_size=64, context_length=16, n_layers=1, n_heads=2, d_model=16, d_ff=32))
batches = TokenWindows(torch.randint(0, 64, (500,)).numpy(), 16, 4, 0)
settings = TrainingConfig(steps=4, learning_rate=0.01, compile=compiled, precision="float32", z_loss=z_loss)
state = TrainingState(model, settings)
losses = [step.loss for step in train(model, batches, settings, state)]
found = torch._dynamo.utils.counters["aot_autograd"]
print(json.dumps([losses, found["autograd_cache_hit"], found["autograd_cache_miss"], state.compiler_fault]))
"""


def trained(compiled: bool | str, z_loss: float, cache: Path, **variables: str) -> Any:
    """Four steps' losses in a process of its own, how often something compiled was found, and was not, and a fault."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, json.dumps([compiled, z_loss])],
        cwd=REPOSITORY,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a CPU with g++")
def test_what_was_compiled_is_found_again_for_the_same_loss_alone(tmp_path: Path) -> None:
    """The same run finds it, to the bit; another loss is compiled anew; all go as the model that is not compiled."""
    first, hits, misses, _ = trained(True, 0.0, tmp_path)
    assert (hits, misses) == (0, 1)
    assert trained(True, 0.0, tmp_path) == [first, 1, 0, ""]
    another, hits, misses, _ = trained(True, 0.5, tmp_path)
    assert (hits, misses) == (0, 1) and abs(another[0] - first[0]) > 0.1
    for z_loss, losses in ((0.0, first), (0.5, another)):
        assert losses == pytest.approx(trained(False, z_loss, tmp_path)[0], rel=1e-4)


@pytest.mark.slow
def test_with_a_compiler_that_fails_auto_trains_as_if_there_were_none(tmp_path: Path) -> None:
    """The losses are to the bit those without compiling, and the fault is kept."""
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    path = f"{compiler.parent}{os.pathsep}{os.environ['PATH']}"
    losses, *_, fault = trained("auto", 0.0, tmp_path / "cache", PATH=path, CXX="g++")
    assert "compiler" in fault.lower() and "\n" not in fault
    assert losses == trained(False, 0.0, tmp_path)[0]
