"""A training state and its first batches in; the same with its loss compiled, if that pays and the compiler works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch._functorch import config as compiler_settings

from model.batches import Batch
from model.hardware import choose_compile
from model.plan import training_flops_per_token

if TYPE_CHECKING:
    from model.training import TrainingState


class CannotCompile(RuntimeError):
    """Compiling was asked for, and the compiler fails."""


def compile_if_it_pays(state: TrainingState, micro_batches: list[Batch]) -> bool:
    """Compile the model before its first step, if that is asked for or the whole run is long enough; whether it did.

    The compiler itself runs when the loss is first computed.
    """
    if state.compiled or state.compiler_fault or state.config.compile is False:
        return False
    tokens_per_step = sum(batch.ids_BT.numel() for batch in micro_batches)
    shape = state.model.config
    flops = training_flops_per_token(shape, shape.context_length) * tokens_per_step * state.config.steps
    if choose_compile(state.config.compile, state.device, flops, state.model.config.dropout > 0):
        # Or nothing that is compiled would be found again by a later process: the loss is an autograd function of ours.
        # Its two passes are traced like the rest, and are part of the key (tests/model/test_compiled.py).
        compiler_settings.autograd_cache_allow_custom_autograd_functions = True
        # On a CPU, activations that are cheap to make are made again for the backward pass, whether or not they must be
        # written down there: of 6 × 384 that takes 1 % of the time and saves 8 % of the memory.
        compiler_settings.ban_recompute_materialized_backward = state.device.type != "cpu"
        if state.world.sharded:
            state.fast_model.compile()
        else:  # with the loss, whose many passes over the logits become two
            state.fast_model.loss = torch.compile(state.fast_model.loss)  # type: ignore[method-assign]
        state.compiled = True
    return state.compiled


def is_the_compilers(error: RuntimeError) -> bool:
    """Whether it is the compiler that failed, and not what was compiled."""
    from torch._dynamo.exc import TorchDynamoException  # torch.compile has loaded it; others need not

    return isinstance(error, TorchDynamoException)


def do_without_compiler(state: TrainingState, error: RuntimeError) -> None:
    """Put back what was to be compiled, before anything has moved; CannotCompile where it was asked for."""
    fault = str(error).split("\n", 1)[0]
    if state.config.compile is True:
        raise CannotCompile(
            f"compile is true, but the compiler failed ({fault}); mend it (a CPU needs g++ or clang++), or set compile "
            "to auto"
        ) from error
    state.compiler_fault, state.compiled = fault, False
    if state.world.sharded:
        state.fast_model._compiled_call_impl = None
    else:
        del state.fast_model.loss
    state.fast_model.zero_grad()
