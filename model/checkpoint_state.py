"""A training state in, its tensors by name and its plain numbers out, and back: what a checkpoint must hold.

Everything goes by the name of the parameter it belongs to (`adamw.blocks.0.mlp.up.weight.exp_avg`), never by a number,
so that a checkpoint can be read by a run with other processes, and by a person.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.parallel import like
from model.training import TrainingState

Fingerprint = dict[str, str | int | float]


def weights(state: TrainingState) -> dict[str, Tensor]:
    """The model's own tensors, not copied."""
    return {name: value.detach() for name, value in state.model.state_dict().items()}


def extras(state: TrainingState) -> dict[str, Tensor]:
    """All other tensors: the optimizers' and the weights' running mean, not copied."""
    tensors = {f"averaged.{name}": value for name, value in state.averaged.items()}
    for prefix, optimizer in state.optimizers.items():
        names = _parameter_names(state, optimizer)
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}.{names[index]}.{key}": value for key, value in values.items()}
    return tensors


def empty_extra(state: TrainingState, name: str, shape: tuple[int, ...]) -> Tensor:
    """Room for one of `extras`, laid out like the parameter it belongs to."""
    parameters = dict(state.model.named_parameters())
    owner = name.partition(".")[2]
    parameter = parameters.get(owner, parameters.get(owner.rpartition(".")[0]))
    if parameter is not None and tuple(parameter.shape) == shape:
        return torch.zeros_like(parameter, requires_grad=False)
    return torch.zeros(shape)


def put_extras(state: TrainingState, tensors: Mapping[str, Tensor], groups: dict[str, Any]) -> None:
    """Undo `extras`; `groups` are the optimizers' plain numbers from `numbers`."""
    for name, value in state.averaged.items():
        value.copy_(like(value, tensors[f"averaged.{name}"]))
    parameters = dict(state.model.named_parameters())
    for prefix, optimizer in state.optimizers.items():
        content: dict[int, dict[str, Tensor]] = {}
        for index, name in enumerate(_parameter_names(state, optimizer)):
            start = f"{prefix}.{name}."
            found = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            content[index] = {
                key: like(parameters[name], value) if value.shape == parameters[name].shape else value
                for key, value in found.items()
            }
        optimizer.load_state_dict({"state": {k: v for k, v in content.items() if v}, "param_groups": groups[prefix]})


def numbers(state: TrainingState) -> dict[str, Any]:
    """All that is no tensor, ready for JSON."""
    return {
        "step": state.step,
        "tokens_seen": state.tokens_seen,
        "skipped_in_a_row": state.skipped_in_a_row,
        "past": list(state.spikes.past),
        "optimizers": {name: optimizer.state_dict()["param_groups"] for name, optimizer in state.optimizers.items()},
    }


def put_numbers(state: TrainingState, record: Mapping[str, Any]) -> None:
    """Undo `numbers`, but for the optimizers'."""
    state.step = record["step"]
    state.tokens_seen = record["tokens_seen"]
    state.skipped_in_a_row = record["skipped_in_a_row"]
    state.spikes.past.clear()
    state.spikes.past.extend((loss, norm, spike) for loss, norm, spike in record["past"])


def random_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Where torch's generators stand."""
    tensors = {"random.torch": torch.get_rng_state()}
    if state.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(state.device)
    return tensors


def random_numbers() -> dict[str, Any]:
    """Where Python's and NumPy's generators stand."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {"python": [version, list(words), gauss], "numpy": [kind, [int(key) for key in keys], *rest]}


def put_random(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Undo `random_tensors` and `random_numbers`."""
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    version, words, gauss = record["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = record["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def identity(state: TrainingState, fingerprint: Fingerprint) -> dict[str, Any]:
    """All that the final weights depend on, beside the checkpoint itself."""
    training = {f"training.{key}": value for key, value in dataclasses.asdict(state.config).items()}
    shape = {f"model.{key}": value for key, value in state.model.config.to_dict().items()}
    content = {
        **fingerprint,
        **shape,
        **training,
        "threads": torch.get_num_threads(),
        "processes": state.world.size,
        "sharded": state.world.sharded,
        "device": state.device.type,
        "precision": str(state.precision),
        "optimizers": [type(optimizer).__name__ for optimizer in state.optimizers.values()],
        "float32_products": torch.get_float32_matmul_precision(),
        "instructions": torch.backends.cpu.get_cpu_capability() if state.device.type == "cpu" else "",
        "torch": torch.__version__,
    }
    normal: dict[str, Any] = json.loads(json.dumps(content))
    return normal


def changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    return [
        f"{key} was {saved.get(key)!r}, is {current.get(key)!r}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    ]


def _parameter_names(state: TrainingState, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters in its own order."""
    name_of = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
