"""A model and batches in, one `Step` record after another out: training as a generator.

The loop computes and nothing else. Whoever consumes it decides when to report, evaluate, save or stop:

    state = TrainingState(model, config)
    for step in train(model, batches, config, state):
        ...

Between two steps `model` always holds the current weights in float32, on the training device.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from model.batches import Batch, mixed_bits
from model.compiling import compile_if_it_pays, do_without_compiler, is_the_compilers
from model.float8 import multiply_in_float8
from model.freed_memory import keep_freed_memory
from model.gpt import GPT
from model.hardware import (
    PRECISIONS,
    Compile,
    Precision,
    choose_float32_products,
    choose_precision,
    device_for,
)
from model.optimizer import OPTIMIZERS, Optimizer, make_optimizers
from model.parallel import ALONE, World, forget_gathered, replicated, shard, whole
from model.ranges import require_ranges
from model.schedule import SCHEDULES, Schedule, learning_rate_factor
from model.spikes import SpikeWatch

Trainable = Literal["all", "last_block", "head", "adapters"]
TRAINABLE = ("all", "last_block", "head", "adapters")
Objective = Callable[[GPT, Batch], Tensor]
"""What to make small, summed over a batch's targets: a number with its gradient."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; what to train is the model's configuration, on what is the batches'."""

    steps: int
    """Updates of the weights in the whole run."""
    learning_rate: float = 1e-3
    """AdamW's peak rate."""
    embedding_learning_rate: float | None = None
    """The token embedding's peak rate where the head is not tied to it; learning_rate when not given."""
    optimizer: Optimizer = "muon"
    """Muon for the blocks' matrices with AdamW for the rest, or AdamW alone."""
    muon_learning_rate: float = 0.02
    """Muon's peak rate."""
    muon_momentum: float = 0.95
    """How much of the last update's direction Muon keeps."""
    weight_decay: float = 0.1
    """Pull of the matrices towards zero, per unit of learning rate."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.95
    """AdamW's memory of the gradient's square."""
    warmup_steps: int = 0
    """Steps over which the rates climb from zero."""
    schedule: Schedule = "cosine"
    """How the rates fall: half a cosine wave, or stable and then straight down (wsd)."""
    decay_fraction: float = 0.2
    """With wsd, the share of all steps in which the rates fall."""
    final_lr_fraction: float = 0.0
    """What is left of the rates at the end."""
    gradient_accumulation: int = 1
    """Batches whose gradients make one step."""
    rows_at_once: int = 0
    """Rows of a batch, in each process, that one pass takes (of preferences, pairs); 0 takes all. Fewer need less
    memory, and change a step in its rounding alone, where there is no dropout."""
    clip_norm: float = 1.0
    """Longer gradients are shortened to this length; 0 leaves them alone."""
    seed: int = 0
    """Seeds dropout, step by step."""
    precision: Precision = "auto"
    """Of the forward and backward pass; auto takes bfloat16 where the hardware multiplies it. float8 is bfloat16 with
    the blocks' products in 8 bits."""
    compile: Compile = False
    """Compile the forward and backward pass; "auto" does where a compiler is and the run is long enough to gain."""
    z_loss: float = 0.0
    """Weight of log² of the softmax's denominator, which keeps logits small (PaLM took 1e-4); 0 leaves it out."""
    ema_decay: float = 0.0
    """Keep a running mean of the weights, of which each step leaves this share as it was; 0 keeps none."""
    spike_threshold: float = 0.0
    """Skip a step this many deviations worse than the last 128 (see model/spikes.py); 0 skips none."""
    max_skipped_steps: int = 10
    """Steps in a row without a finite loss and gradient before the run is given up; spikes skipped in any 128 steps."""
    trainable: Trainable = "all"
    """Which weights move: all, the last block with the final norm and the head, the head alone, or LoRA's adapters
    with a classifier's head, which is new."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("trainable", TRAINABLE),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(allowed)}")
        if self.steps < 1 or self.gradient_accumulation < 1 or self.rows_at_once < 0:
            raise ValueError("steps and gradient_accumulation must be at least 1, rows_at_once at least 0")
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} but steps is {self.steps}; lower one or raise the other"
            )
        require_ranges(vars(self))


@dataclass(frozen=True)
class Step:
    """What one step of training was like."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean nats per target of this step's batches, before its update."""
    grad_norm: float
    """Length of the gradient before clipping."""
    learning_rate: float
    """AdamW's rate in this step."""
    tokens_seen: int
    """Tokens in all steps so far, padding included."""
    skipped: bool
    """Loss or gradient was not finite, or a spike, so the weights were left alone."""


class Diverged(RuntimeError):
    """Training came to infinite or undefined figures, and will not come back: what was found, with what to do."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; lower the learning rate or look at the data")


class TrainingState:
    """Everything that a checkpoint must hold for training to go on as if it had never stopped."""

    def __init__(
        self,
        model: GPT,
        config: TrainingConfig,
        device: str = "auto",
        world: World = ALONE,
        objective: Objective | None = None,
    ) -> None:
        """Move `model` to the device, freeze what is not trained, and make the optimizers.

        The model's own loss is made small unless another `objective` is given, which one process alone may have.

        With bfloat16 a second copy of the weights (`fast_model`) does the forward and backward pass, while the
        optimizers work on the float32 weights of `model`: rounding never piles up, and nothing is cast twice. A model
        that is cut over several processes needs no copy: it is cast when its parts are gathered.
        """
        self.model = model
        self.config = config
        self.world = world
        self.device = device_for(device)
        self.precision = choose_precision(config.precision, self.device)
        automatic = self.device.type == "cpu" and config.precision == "auto"
        choose_float32_products(faster=automatic and self.precision == torch.float32)
        self.step = 0
        self.tokens_seen = 0
        self.skipped_in_a_row = 0
        self.changes: tuple[str, ...] = ()  # what differed in earlier resumes; not empty: no longer bitwise equal
        self.spikes = SpikeWatch(config.spike_threshold, config.max_skipped_steps)
        model.to(device=self.device, dtype=torch.float32)
        freeze(model, config.trainable)
        if world.sharded:
            shard(model, self.precision, self.device)
        self.optimizers = make_optimizers(
            model,
            optimizer=config.optimizer,
            learning_rate=config.learning_rate,
            embedding_learning_rate=config.embedding_learning_rate or config.learning_rate,
            muon_learning_rate=config.muon_learning_rate,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
            muon_momentum=config.muon_momentum,
        )
        self.averaged: dict[str, Tensor] = {}
        if config.ema_decay:
            self.averaged = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        in_float32 = self.precision == torch.float32 or world.sharded
        self.fast_model = model if in_float32 else copy.deepcopy(model).to(self.precision)
        if config.precision == "float8":
            if world.sharded:
                raise ValueError("precision float8 needs whole weights in each process; take bfloat16")
            multiply_in_float8(self.fast_model.blocks, emulate=self.device.type == "cpu")
        self.compiled = False
        self.compiler_fault = ""  # what the compiler said when it failed and training went on without
        self.compute_loss: Callable[..., Tensor] = replicated(self.fast_model, world)
        self.objective = objective
        self.trained: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._fast_trained: list[Tensor] = [p for p in self.fast_model.parameters() if p.requires_grad]

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block `model` holds the running mean of its weights, if one is kept."""
        forget_gathered(self.model)
        own = {n: p.detach().clone() for n, p in self.model.named_parameters() if n in self.averaged}
        self._put(self.averaged)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, weights: dict[str, Tensor]) -> None:
        forget_gathered(self.model)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])

    def update_average(self) -> None:
        """Move the running mean towards the weights; in the first steps faster, or it would long hold the random ones.

        The faster start, (1 + steps) / (10 + steps), is that of TensorFlow's ExponentialMovingAverage.
        """
        if self.averaged:
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.values()), self.trained, 1 - decay)

    def refresh_fast_model(self) -> None:
        """Copy the float32 weights into the fast copy, after a step or a load."""
        if self.fast_model is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(self._fast_trained, self.trained)

    def collect_gradients(self) -> None:
        """Add the fast copy's gradients to those of the float32 weights, and clear them."""
        if self.fast_model is self.model:
            return
        if self.device.type == "cuda":
            sums = [weight.grad for weight in self.trained if weight.grad is not None]
            added = [fast.grad for fast in self._fast_trained if fast.grad is not None]
            if len(sums) == len(added) == len(self.trained):
                # All at once: to begin the sums of GPT-2's 196 tensors one by one takes a GPU longer than to make them.
                wide = [torch.empty_like(each) for each in sums]
                torch._foreach_copy_(wide, added)
                torch._foreach_add_(sums, wide)
                self.fast_model.zero_grad()
                return
        for weight, fast in zip(self.trained, self._fast_trained, strict=True):
            if fast.grad is None:
                continue
            if weight.grad is None:
                weight.grad = fast.grad.float()
            else:
                weight.grad += fast.grad
            fast.grad = None


def train(
    model: GPT, batches: Callable[[int], Batch], config: TrainingConfig, state: TrainingState | None = None
) -> Iterator[Step]:
    """Train from `state.step` to `config.steps`, yielding after every step; raises Diverged.

    `batches(position)` must be pure: step s takes the positions from s × gradient_accumulation on. Where the model has
    dropout, torch's global generator is seeded anew in every step, so that a step does not depend on what ran before.
    """
    state = TrainingState(model, config) if state is None else state
    if state.model is not model or state.config != config:
        raise ValueError("the training state was made for another model or configuration")
    while state.step < config.steps:
        yield take_step(state, batches)


def take_step(state: TrainingState, batches: Callable[[int], Batch]) -> Step:
    """One update of the weights from `gradient_accumulation` batches, every target weighing the same."""
    config, world = state.config, state.world
    first = state.step * config.gradient_accumulation
    micro_batches = [batches(first + i) for i in range(config.gradient_accumulation)]
    newly_compiled = compile_if_it_pays(state, micro_batches)
    try:
        total = _add_gradients(state, micro_batches)
    except RuntimeError as error:
        if not (newly_compiled and is_the_compilers(error)):
            raise
        do_without_compiler(state, error)
        total = _add_gradients(state, micro_batches)
    factor = learning_rate_factor(
        state.step,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        decay_fraction=config.decay_fraction,
        final_fraction=config.final_lr_fraction,
    )
    grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(state.trained, config.clip_norm or math.inf)))
    mean_loss = float(world.sum(total))
    finite = math.isfinite(mean_loss) and math.isfinite(grad_norm)
    applied = finite and not state.spikes.is_spike(mean_loss, grad_norm)
    if applied:
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.step()
        state.refresh_fast_model()
        state.update_average()
    if state.device.type == "cpu":
        keep_freed_memory()  # after the first step, or what a compiler has left would lie between the arrays
    state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
    if state.skipped_in_a_row > config.max_skipped_steps:
        raise Diverged(
            f"{state.skipped_in_a_row} steps in a row up to step {state.step + 1} had no finite loss and gradient "
            f"(last loss {mean_loss}, gradient {grad_norm})"
        )
    state.step += 1
    state.tokens_seen += sum(batch.ids_BT.numel() for batch in micro_batches)
    return Step(state.step, mean_loss, grad_norm, config.learning_rate * factor, state.tokens_seen, not applied)


def _add_gradients(state: TrainingState, micro_batches: list[Batch]) -> Tensor:
    """Leave the weights' gradient of these batches, and no other, with the weights; this process's part of the loss.

    Called again it does the same again.
    """
    config, world = state.config, state.world
    if state.model.config.dropout:
        own_noise = (world.rank,) if world.size > 1 else ()
        torch.manual_seed(mixed_bits(config.seed, state.step, *own_noise) >> 1)
    scored = max(1, sum(batch.scored() for batch in micro_batches))
    state.fast_model.train()
    state.model.zero_grad()
    total = torch.zeros((), device=state.device)
    parts = (part for batch in micro_batches for part in batch.parts(config.rows_at_once * world.size))
    for part in parts:
        batch = world.rows(part).to(state.device)
        if state.objective is not None:
            nats = state.objective(state.fast_model, batch)
        else:
            nats = state.compute_loss(
                batch.ids_BT, batch.targets, batch.lengths_B, "sum", batch.documents_BT, z_loss=config.z_loss
            )
        loss = nats / scored
        # Processes average their gradients; the sum over all rows is wanted.
        (loss * world.size).backward()  # type: ignore[no-untyped-call]
        state.collect_gradients()
        total += loss.detach()
    return total


def freeze(model: GPT, trainable: Trainable) -> None:
    """Let only the asked-for weights move."""
    model.requires_grad_(trainable == "all")
    if trainable == "last_block":
        model.blocks[-1].requires_grad_(True)
        model.final_norm.requires_grad_(True)
    if trainable == "adapters":
        parameters = dict(model.named_parameters())
        new_head = model.config.n_classes > 0 and "head.adapter_a" not in parameters
        for name, parameter in parameters.items():
            parameter.requires_grad_(".adapter_" in name or (new_head and name == "head.weight"))
    elif trainable != "all":
        (model.token_embedding if model.head is None else model.head).requires_grad_(True)


def describe_compute(state: TrainingState) -> dict[str, Any]:
    """Where and how the state trains, for logs; never part of a result."""
    cuda = state.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(state.device) if cuda else state.device.type,
        "precision": str(state.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": state.world.size,
        "compiled": state.compiled,
    }
