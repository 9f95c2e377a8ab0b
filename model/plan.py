"""A shape and a batch in, what training will take out: parameters, memory, floating-point operations. Arithmetic only.

No tensor is made and torch is not needed, so a plan for a model of any size costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.gpt import GPTConfig

FLOAT32 = 4
LOGITS_PER_CHUNK, LOGITS_PER_GPU_CHUNK, FEWEST_ROWS = 1_048_576, 1 << 26, 256
"""model/cross_entropy.py's."""
QUERIES_AT_ONCE = {False: 64, True: 128}
"""model/softmax_attention.py's, in float32 and in bfloat16."""
RUNTIME_BYTES = 150_000_000
"""The default run's peak on a CPU was 421 MB above where it began, of which 268 are accounted for otherwise."""
ALLOCATED = 1.1
"""What the allocator takes for what is asked of it; fitted to measured peaks."""


@dataclass(frozen=True)
class Parameters:
    """How many parameters each part of a model has."""

    token_embedding: int
    position_embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    """0 where it is the token embedding's matrix."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds at its peak, by what they are for."""

    weights: int
    """float32, and a copy in bfloat16 where that computes; of a sharded model a part, and what is gathered of it."""
    gradients: int
    """Once more where processes average them."""
    optimizer: int
    averaged: int
    """The running mean of the weights, where one is kept."""
    activations: int
    """What one forward pass keeps for its backward pass, and what that needs at its peak."""
    loss: int
    """A chunk of the logits, and the head's gradient while they are made."""
    checkpoint: int
    """A copy of all that a checkpoint holds, written while training goes on."""
    runtime: int
    """What torch and oneDNN load when they first compute."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def parameters(config: GPTConfig) -> Parameters:
    """The parameters by part; their sum is `config.parameter_count()`."""
    c, L, D = config, config.n_layers, config.d_model
    H, K, F = _sizes(config)
    qkv = (D + c.qkv_bias) * (H + 2 * K)
    output = (H + c.linear_bias) * D
    matrices = 3 if c.mlp == "swiglu" else 2
    inner_biases = (F * (matrices - 1) + D) * c.linear_bias
    norm = 2 * D if c.norm == "layernorm" else D
    head_norms = 2 * (H // c.n_heads) if c.qk_norm else 0
    untied = c.n_classes or (0 if c.tied_head else c.vocab_size)
    return Parameters(
        token_embedding=c.vocab_size * D,
        position_embedding=c.context_length * D if c.positions == "learned" else 0,
        attention=L * (qkv + output),
        feed_forward=L * (matrices * D * F + inner_biases),
        norms=(2 * L + 1) * norm + L * head_norms,
        head=untied * D,
    )


def multiplying_weights(config: GPTConfig) -> int:
    """The parameters that multiply: the blocks' and the head's, which may be the embedding."""
    parts = parameters(config)
    return parts.attention + parts.feed_forward + (parts.head or parts.token_embedding)


def training_flops_per_token(config: GPTConfig, context_length: int) -> int:
    """Floating-point operations for one token, forward and backward.

    As in PaLM's appendix B (Chowdhery et al., 2022): six for each weight that multiplies, and 12 · layers · width of
    the heads · context for attention, causal or not. The embedding is looked up and costs nothing; the head multiplies.
    """
    heads_width, _, _ = _sizes(config)
    return 6 * multiplying_weights(config) + 12 * config.n_layers * heads_width * context_length


def training_memory(
    config: GPTConfig,
    *,
    batch_size: int,
    context_length: int,
    bfloat16: bool,
    muon: bool,
    averaged: bool,
    on_cpu: bool,
    keeps_attention: bool,
    processes: int = 1,
    sharded: bool = False,
) -> Memory:
    """Bytes at the peak of training, beyond those of a process that has loaded torch and computed nothing.

    They are those of the first of the `processes`, which share the batch, and the model where it is `sharded`; of a
    model that each has, the first alone saves. `keeps_attention`: whether the attention weights are kept for the way
    back, as model/softmax_attention.py decides. Of a GPU's memory a checkpoint takes none.

    Measured peaks of six shapes, each step saved, lay between 0.81 and 1.06 of it, `runtime` left out (one thread each,
    torch 2.13, Zen 5); tests/model/test_plan.py measures again.
    """
    parts = parameters(config)
    D, T = config.d_model, context_length
    H, K, F = _sizes(config)
    M = math.ceil(batch_size / processes) * T
    cut = processes if sharded else 1
    size = 2 if bfloat16 else FLOAT32
    matrices = parts.attention + parts.feed_forward if muon else 0
    # Kept by each block for each token: the stream twice and what each norm made of it (RMSNorm, on a CPU, in steps),
    # queries, keys and values before and after rotation, what attention gave; the feed-forward's insides.
    normed = 8 if config.norm == "rmsnorm" else 4
    inner = 4 if config.mlp == "swiglu" else 2
    rotated = H + K if config.positions == "rope" else H
    dropped = 2 * D if config.dropout else 0  # by how much each element of what a block adds was multiplied
    kept = normed * D + (H + 2 * K) + rotated + H + inner * F + dropped
    queries = min(T, QUERIES_AT_ONCE[bfloat16])
    scores = config.n_heads * (T + queries) // 2 if keeps_attention else 0  # nobody meets keys behind its block
    staying = 1 if config.dropout else 0  # a byte for each score
    block = M * (kept * size + scores * (size + staying))
    # While one block goes backward, the gradients of its largest pieces exist beside them.
    passing = M * max(config.n_heads * queries * (1 + staying) if keeps_attention else 0, 3 * F + 2 * D) * size
    head = parts.head or parts.token_embedding
    # One chunk, in float32; in bfloat16 also as it comes from its product, and as it goes into the next.
    chunk = max(LOGITS_PER_CHUNK if on_cpu else LOGITS_PER_GPU_CHUNK, FEWEST_ROWS * config.vocab_size)
    logits = min(chunk, M * config.vocab_size)
    activations = round(ALLOCATED * (config.n_layers * block + passing + 4 * M * D * size))
    loss = logits * (2 if bfloat16 else 1) * FLOAT32 + head * size
    saved = checkpoint_bytes(config, muon=muon, averaged=averaged) // cut
    weights, gradients = parts.total * FLOAT32 // cut, parts.total * FLOAT32 // cut
    if sharded:
        # The outermost part stays gathered from forward to backward, and two blocks are there at a time; both they and
        # their gradients twice, for what is sent lies in one piece.
        outermost = parts.total - parts.attention - parts.feed_forward
        there = outermost + 2 * (parts.total - outermost) // config.n_layers
        weights += 2 * there * size
        gradients += 2 * there * FLOAT32
    else:
        weights += parts.total * 2 * bfloat16
        # DistributedDataParallel averages them in buckets of its own.
        gradients += parts.total * 2 * bfloat16 + (parts.total * size if processes > 1 else 0)
    # At its end, each process puts a sharded model together.
    checkpoint = max(saved, FLOAT32 * parts.total if sharded else 0)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=FLOAT32 * (2 * (parts.total - matrices) + matrices) // cut,
        averaged=FLOAT32 * parts.total * averaged // cut,
        activations=activations,
        loss=loss,
        checkpoint=checkpoint if on_cpu else 0,
        runtime=RUNTIME_BYTES if on_cpu else 0,
    )


def checkpoint_bytes(config: GPTConfig, *, muon: bool, averaged: bool) -> int:
    """Bytes of one checkpoint to resume from: float32 weights, their running mean, the optimizer's state.

    So many on disk, and in the machine's memory, from the copy that is made at once until it is written.
    """
    parts = parameters(config)
    matrices = parts.attention + parts.feed_forward if muon else 0
    return FLOAT32 * ((1 + averaged) * parts.total + 2 * (parts.total - matrices) + matrices)


def _sizes(config: GPTConfig) -> tuple[int, int, int]:
    """Width of all query heads, of all key heads, and of the feed-forward's inside."""
    assert config.head_dim is not None and config.n_kv_heads is not None and config.d_ff is not None
    return config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, config.d_ff
