"""Processes that torchrun started, in; one training over all of them, out. The model's own file knows nothing of it.

Every process makes the same batches and takes its own rows: process r of n those with the numbers r, r + n, r + 2n …
So the order of the data, and what one step learns from, are the same on 1 process and on 100.

- replicated (DDP): each process holds the whole model; gradients are averaged while the backward pass still runs.
- sharded (FSDP2, `fully_shard`): each process holds a slice of every tensor and gathers a block when it is its turn.
  Optimizers see slices too. AdamW is content with them; Muon's products need whole matrices, and gather each once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.batches import Batch
from model.gpt import GPT, IGNORE
from model.outline import without_numbers


@dataclass(frozen=True)
class World:
    """The processes that train one model together, seen from one of them."""

    rank: int = 0
    """This one's number; 0 reports and writes."""
    size: int = 1
    """How many there are."""
    sharded: bool = False
    """The weights are cut over the processes, not copied to each."""

    def rows(self, batch: Batch) -> Batch:
        """This process's rows of a batch; where there are too few, a row of which nothing is scored."""
        if self.size == 1:
            return batch
        if self.rank >= len(batch.ids_BT):
            return replace(batch.rows(slice(0, 1)), targets=torch.full_like(batch.targets[:1], IGNORE))
        return batch.rows(slice(self.rank, None, self.size))

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, *flags: bool, device: torch.device) -> list[bool]:
        """For each flag, whether it is set in some process; so all take the same way."""
        if self.size == 1:
            return list(flags)
        return [bool(count) for count in self.sum(torch.tensor(flags, dtype=torch.float32, device=device)).tolist()]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def joined(device: torch.device, *, sharded: bool) -> Iterator[World]:
    """Within the block the processes that torchrun started can talk: by NCCL between GPUs, otherwise by gloo."""
    if not started_by_torchrun():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), sharded)
    finally:
        dist.destroy_process_group()


class _Loss(nn.Module):
    """The model's loss as a forward pass, which is what DDP wraps."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Any, **settings: Any) -> Tensor:
        return self.model.loss(*batch, **settings)


def replicated(model: GPT, world: World) -> Callable[..., Tensor]:
    """What computes `model.loss`, as it is when called: training may have it compiled.

    Where every process holds the whole model, gradients are averaged over them in the backward pass. Seeds and
    checkpoints make the copies equal from the start, and equal gradients keep them so.
    """
    if world.size == 1 or world.sharded:
        return _Loss(model)
    with warnings.catch_warnings():
        # Its successor, from torch 2.13 on, does something else.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        loss: Callable[..., Tensor] = nn.parallel.DistributedDataParallel(
            _Loss(model), broadcast_buffers=False, init_sync=False
        )
    return loss


def shard(model: GPT, precision: torch.dtype, device: torch.device) -> None:
    """Cut the weights over the processes, block by block; forward and backward gather them in `precision`.

    Gradients are summed in float32. The outermost part (embedding, last norm, head) stays gathered until the backward
    pass is over, because the loss uses the head's matrix outside the forward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def forget_gathered(model: GPT) -> None:
    """Let a sharded model hold its own parts again, as it does not between a forward and a backward pass."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose parts lie in several processes, gathered; any other as it is."""
    full = getattr(tensor, "full_tensor", None)
    gathered: Tensor = tensor if full is None else full()
    return gathered


def gathered(model: GPT, instead: Mapping[str, Tensor] | None = None) -> GPT:
    """The whole model on the CPU, with the tensors of `instead` in place of its own; of several processes all call it.

    A model that lies whole on a CPU already, with nothing to replace, comes back itself.
    """
    tensors = model.state_dict() | dict(instead or {})
    if (
        not instead
        and model.token_embedding.weight.is_cpu
        and not any(hasattr(t, "full_tensor") for t in tensors.values())
    ):
        return model
    with without_numbers():
        copy = GPT(model.config)
    copy.load_state_dict({name: whole(value.detach()).float().cpu() for name, value in tensors.items()}, assign=True)
    return copy


def like(template: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, laid out over them as `template` is; nothing is sent.

    Where the template is not cut up, or both are, it is the tensor as it is.
    """
    if not hasattr(template, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    # Takes a second to load, and whoever only reads a model comes by here.
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(template, DTensor)
    placed: Tensor = distribute_tensor(
        tensor.to(template.device), template.device_mesh, template.placements, src_data_rank=None
    )
    return placed
