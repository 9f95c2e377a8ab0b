"""A model that is cut over several processes in, each one's part on disk out, and back into any number of processes.

This is torch.distributed.checkpoint in its safetensors format, which pickles nothing. What makes a folder of parts a
whole checkpoint is in model/checkpoint.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from model import checkpoint_state
from model.training import TrainingState

MODEL = "model."


def write_parts(folder: Path, state: TrainingState) -> None:
    """Write this process's part of every tensor; all processes must call it."""
    tensors = {MODEL + name: value for name, value in checkpoint_state.weights(state).items()}
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save({**tensors, **checkpoint_state.extras(state)}, storage_writer=writer)


def read_parts(folder: Path, state: TrainingState) -> dict[str, Tensor]:
    """Read the weights into the model and return all other tensors, cut up as this run's processes need them.

    Raises ValueError when the weights are those of another model.
    """
    saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    shapes = {name: tuple(getattr(about, "size", ())) for name, about in saved.items()}
    own = {MODEL + name: value for name, value in checkpoint_state.weights(state).items()}
    if {name: tuple(value.shape) for name, value in own.items()} != {
        name: shape for name, shape in shapes.items() if name.startswith(MODEL)
    }:
        raise ValueError(f"{folder}: its weights are not those of this model")
    rest = {n: checkpoint_state.empty_extra(state, n, shape) for n, shape in shapes.items() if n not in own}
    into: dict[str, Any] = {**own, **rest}
    load(into, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=state.world.size == 1)
    return rest
