"""Goes in: a model's shape and its training. Comes out: what that will take, and a refusal of what will not fit.

`homegrown plan` prints it before anything starts; the pretrain stage makes the same plan, and afterwards says how far
off it was. Nothing here changes what a stage writes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.digests import digest_of
from pipeline.errors import InputOutputError
from pipeline.free_memory import free_memory
from pipeline.params import Compute
from pipeline.processes import spread
from pipeline.tracking.spool import STATE
from pipeline.training_run import device_of

if TYPE_CHECKING:
    from model.gpt import GPTConfig
    from model.plan import Memory, Parameters
    from model.training import TrainingConfig

PACES = STATE / "paces.json"
UTILISATION = {"cpu float32": 0.5, "cpu": 0.5, "cuda": 0.45, "mps": 0.2}
"""Share of the matrix rate that training reaches, where no run of the same shape has been timed. A core of an AMD EPYC
reached 0.53 to 0.74 in bfloat16 (Zen 5, benchmarks/results/training-bfloat16.json), two without bfloat16 products 0.30
to 0.60 in default runs, as busy as the machine was (Zen 3); an H200 0.46 to 0.48, compiled
(benchmarks/results/gpu_124m.json). That of mps is a guess."""
KEPT_CHECKPOINTS = 3  # two, and one being written
CACHED_COPIES = 2  # in the workspace and in DVC's cache


@dataclass(frozen=True)
class Plan:
    """What a training will take."""

    parameters: Parameters
    memory: Memory
    """Of the first process."""
    processes: int
    """Those of this machine."""
    memory_needed: int
    """Bytes of the device's memory: of all of them together, but on GPUs of each."""
    memory_free: int
    """Bytes that the device has to give."""
    host_memory: int
    """Bytes that a checkpoint takes beside the device's, in the machine's memory; 0 where training is on the CPU."""
    host_memory_free: int
    device: str
    precision: str
    flops_per_token: int
    tokens: int
    """Tokens trained on, repetitions included."""
    corpus_tokens: int | None
    """Tokens in the training split; None where there is none yet."""
    seconds: float
    seconds_from: str
    """What the time is worked out from."""
    disk: dict[str, int]
    """Bytes still to be written, by what they are for."""
    disk_free: int
    pace_key: str
    """Equal for runs that should be equally fast."""

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole training."""
        return self.flops_per_token * self.tokens


def make_plan(
    config: GPTConfig,
    training: TrainingConfig,
    *,
    batch_size: int,
    compute: Compute,
    corpus_tokens: int | None,
    models: int,
    root: Path = Path(),
) -> Plan:
    """The plan of a pretraining on this machine; measures its matrix rate (a second) if no such run has been timed.

    Of several processes each has its part of the batch, and of a sharded model. On several machines it is this one's.
    """
    import torch

    from model import plan
    from model.hardware import choose_precision, matrix_rate
    from model.softmax_attention import BLOCKWISE_LIMIT

    device = device_of(compute)
    precision = choose_precision(training.precision, device)
    over = spread(compute)
    in_all = over.processes * over.nodes
    sharded = compute.shard_model and in_all > 1
    muon, averaged = training.optimizer == "muon", training.ema_decay > 0
    memory = plan.training_memory(
        config,
        batch_size=batch_size,
        context_length=config.context_length,
        bfloat16=precision == torch.bfloat16,
        muon=muon,
        averaged=averaged,
        on_cpu=device.type == "cpu",
        keeps_attention=device.type == "cpu" and config.context_length <= BLOCKWISE_LIMIT,
        processes=in_all,
        sharded=sharded,
    )
    # Of a model that each has, the first saves alone; the others too lay their weights aside to look at the mean.
    another = memory.total if sharded else memory.total - memory.checkpoint + memory.averaged
    host_memory = plan.checkpoint_bytes(config, muon=muon, averaged=averaged)
    if sharded:  # each saves its part, and puts the whole model together at the end
        host_memory = over.processes * max(host_memory // in_all, plan.FLOAT32 * plan.parameters(config).total)
    parameters = plan.parameters(config)
    flops = plan.training_flops_per_token(config, config.context_length)
    tokens = training.steps * training.gradient_accumulation * batch_size * config.context_length
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    key = digest_of(
        [config.to_dict(), batch_size, str(precision), training.optimizer, training.compile, where,
         compute.thread_count if device.type == "cpu" else 0,
         *([over.processes, over.nodes, sharded] if in_all > 1 else [])]
    )  # fmt: skip
    if pace := _paces(root).get(key):
        seconds, seconds_from = tokens / pace, f"the last run of this shape made {pace:,.0f} tokens/s"
    else:
        torch.set_num_threads(compute.thread_count)
        rate = matrix_rate(device, precision) * (in_all if device.type == "cuda" else over.nodes)
        share = UTILISATION.get(f"{device.type} {precision}".replace("torch.", ""), UTILISATION[device.type])
        seconds = tokens * flops / (rate * share)
        seconds_from = f"a measured {rate / 1e9:,.0f} GFLOP/s of matrix products, of which {share:.0%} are used"
    weights = plan.FLOAT32 * parameters.total
    return Plan(
        parameters=parameters,
        memory=memory,
        processes=over.processes,
        memory_needed=memory.total + (0 if device.type == "cuda" else (over.processes - 1) * another),
        memory_free=_free_memory(device),
        host_memory=0 if device.type == "cpu" else host_memory,
        host_memory_free=free_memory(),
        device=where,
        precision=str(precision).removeprefix("torch."),
        flops_per_token=flops,
        tokens=tokens,
        corpus_tokens=corpus_tokens,
        seconds=seconds,
        seconds_from=seconds_from,
        disk={
            "checkpoints to resume from": KEPT_CHECKPOINTS
            * plan.checkpoint_bytes(config, muon=muon, averaged=averaged),
            "models": CACHED_COPIES * models * weights,
            "exports": CACHED_COPIES * models * weights,
        },
        disk_free=shutil.disk_usage(root).free,
        pace_key=key,
    )


def refuse_what_does_not_fit(plan: Plan) -> None:
    """InputOutputError, with what to change, for more memory or disk than there is."""
    needed, written = plan.memory_needed, sum(plan.disk.values())
    if needed > plan.memory_free:
        largest = max(vars(plan.memory), key=lambda part: getattr(plan.memory, part))
        together = f" for {plan.processes} processes" if plan.processes > 1 else ""
        raise InputOutputError(
            f"pretrain: needs {gib(needed)} of memory{together} where {plan.device} has {gib(plan.memory_free)} free, "
            f"most of it for {largest}; lower "
            f"pretrain.{'batch_size' if largest == 'activations' else 'd_model or n_layers'}"
            + (" or compute.processes" if together else "")
        )
    if plan.host_memory > plan.host_memory_free:
        raise InputOutputError(
            f"pretrain: a checkpoint needs {gib(plan.host_memory)} of this machine's memory, which has "
            f"{gib(plan.host_memory_free)} free; lower pretrain.d_model or n_layers"
        )
    if written > plan.disk_free:
        raise InputOutputError(
            f"pretrain: will write {gib(written)} where the disk has {gib(plan.disk_free)} free; make room (dvc gc) or "
            "choose a smaller model"
        )


class Stopwatch:
    """Times a training that a plan was made for, and says how far off the plan was."""

    def __init__(self, plan: Plan, *, root: Path = Path()) -> None:
        """Begin."""
        self._plan, self._root = plan, root
        self._began = time.monotonic()
        self._memory_before = _resident_bytes()

    def compare(self, *, whole: bool) -> dict[str, float]:
        """Real over planned, `plan_memory_ratio` and, of a training that took all its steps since, `plan_time_ratio`.

        The pace of such a `whole` training is remembered.
        """
        plan, seconds = self._plan, time.monotonic() - self._began
        ratios = {"plan_memory_ratio": _peak_bytes(plan.device, self._memory_before) / plan.memory.total}
        if whole:
            ratios["plan_time_ratio"] = seconds / plan.seconds
            path = self._root / PACES
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            paces = {**_paces(self._root), plan.pace_key: plan.tokens / seconds}
            partial.write_text(json.dumps(paces, indent=2), encoding="utf-8")
            partial.replace(path)
        return ratios


def as_lines(plan: Plan) -> list[str]:
    """The plan for a person."""
    parts, memory = plan.parameters, plan.memory
    corpus = (
        f"{plan.tokens / plan.corpus_tokens:.2f} times through the corpus" if plan.corpus_tokens else "no corpus yet"
    )
    minutes, seconds = divmod(round(plan.seconds), 60)
    return [
        f"parameters  {parts.total:,}: " + " · ".join(f"{_said(k)} {v:,}" for k, v in vars(parts).items() if v),
        f"memory      {gib(plan.memory_needed)} of {gib(plan.memory_free)} free on {plan.device}, {plan.precision}: "
        + (f"the first of {plan.processes} processes " if plan.processes > 1 else "")
        + " · ".join(f"{k} {gib(v)}" for k, v in vars(memory).items())
        + (f"; for a checkpoint {gib(plan.host_memory)} of this machine's" if plan.host_memory else ""),
        f"computing   {plan.flops_per_token / 1e6:,.1f} MFLOP for each of {plan.tokens:,} tokens ({corpus}), "
        f"{plan.flops:.2e} FLOP in all",
        f"time        {minutes // 60}:{minutes % 60:02d}:{seconds:02d}, from {plan.seconds_from}",
        f"disk        {gib(sum(plan.disk.values()))} of {gib(plan.disk_free)} free: "
        + " · ".join(f"{k} {gib(v)}" for k, v in plan.disk.items()),
    ]


def as_object(plan: Plan) -> dict[str, Any]:
    """The plan for a program: its fields, and the sums."""
    sums = {"parameters_total": plan.parameters.total, "memory_total": plan.memory.total, "flops": plan.flops}
    return {**asdict(plan), **sums, "disk_total": sum(plan.disk.values())}


def gib(size: float) -> str:
    """Bytes for a person."""
    return f"{size / 2**30:.2f} GiB" if size < 100 * 2**30 else f"{size / 2**30:,.0f} GiB"


def _said(name: str) -> str:
    return name.replace("_", " ")


def _paces(root: Path) -> dict[str, float]:
    try:
        paces: dict[str, float] = json.loads((root / PACES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return paces


def _free_memory(device: Any) -> int:
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


def _peak_bytes(device: str, before: int) -> int:
    """The most memory that this process has held, on the GPU or above what it held before training."""
    import torch

    if torch.cuda.is_available() and device == torch.cuda.get_device_name():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes() - before


def peak_resident_bytes() -> int:
    """The most memory this process has held; Linux's ru_maxrss would also count what its parent held at the fork."""
    if sys.platform == "linux":
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
