"""What each process of test_parallel.py does; started by torchrun, or alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.batches import Batch, TokenWindows
from model.checkpoint import CheckpointSaver, load_checkpoint
from model.gpt import GPT, GPTConfig
from model.parallel import World, joined
from model.training import TrainingConfig, TrainingState, train

TEXT = np.random.default_rng(0).integers(0, 64, 3000).astype(np.uint16)
DATA = {"tokens": "sha256:abc"}
WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    "replicated-muon": (False, {}),
    "replicated-adamw": (False, {"optimizer": "adamw", "gradient_accumulation": 2}),
    "replicated-bfloat16": (False, {"precision": "bfloat16"}),
    "sharded-muon": (True, {}),
    "sharded-adamw": (True, {"optimizer": "adamw", "gradient_accumulation": 2, "ema_decay": 0.9}),
    "sharded-bfloat16": (True, {"precision": "bfloat16"}),
}


def start(world: World, **changes: Any) -> TrainingState:
    """A new run of six steps."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=64, context_length=16, n_layers=2, n_heads=2, d_model=32, tied_head=False))
    settings = {"steps": 6, "learning_rate": 0.01, "warmup_steps": 2, "precision": "float32"}
    return TrainingState(model, TrainingConfig(**{**settings, **changes}), "cpu", world)


def losses(state: TrainingState, rows: list[list[list[int]]] | None = None) -> list[float]:
    """The losses to the end; `rows` collects the first token of each row that this process trains on."""
    windows = TokenWindows(TEXT, context_length=16, batch_size=5, seed=0)

    def batches(position: int) -> Batch:
        batch = windows(position)
        if rows is not None:
            rows.append(state.world.rows(batch).ids_BT[:, :3].tolist())
        return batch

    curve = []
    for step in train(state.model, batches, state.config, state):
        curve.append(step.loss)
        with state.averaged_weights(), torch.no_grad():
            state.model(torch.tensor([[1, 2, 3]]))
    return curve


def main(folder: Path) -> None:
    """Train in every way, save half-way, and write down what was seen."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu"), sharded=False) as together:
        for way, (sharded, changes) in WAYS.items():
            world = dataclasses.replace(together, sharded=sharded)
            rows: list[list[list[int]]] = []
            state = start(world, **changes)
            curve = losses(state, rows)
            if sharded:
                half = start(world, **changes)
                steps = train(half.model, TokenWindows(TEXT, 16, 5, 0), half.config, half)
                while half.step < 3:
                    next(steps)
                with CheckpointSaver(folder / way, DATA) as saver:
                    saver.save(half)
                again = start(world, **changes)
                assert load_checkpoint(folder / way, again, DATA) is not None
                assert losses(again) == curve[3:], "a resumed sharded run differs from one that never stopped"
            (folder / f"{way}-{world.rank}.json").write_text(json.dumps({"losses": curve, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
