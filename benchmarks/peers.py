"""Goes in: a shape. Comes out: the same decoder in four hands, each ready to take training steps on given tokens.

Ours, transformers' GPT-2, litgpt's GPT and a loop in the manner of nanoGPT; all of GPT-2's shape, all with fused AdamW,
gradient clipping and random weights. Each peer may run in float32, under bfloat16 autocast, or with bfloat16 and
compiled; which is best is for the benchmark to find. litgpt knows no learned positions and gets rotary ones.

    pip install litgpt==0.5.13      # the peer that is not among the development tools
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
PEERS = ("nanogpt", "transformers", "litgpt")
OURS = "homegrown"
OURS_ROTARY = "homegrown, rotary"


@dataclass(frozen=True)
class Shape:
    """What all of them have in common."""

    n_layers: int
    n_heads: int
    d_model: int
    context_length: int
    vocab_size: int
    batch_size: int


@dataclass(frozen=True)
class Contender:
    """One model with its optimizer."""

    step: Callable[[Tensor, Tensor], float]
    """One update from ids and targets (accumulation × B, T); its loss."""
    evaluate: Callable[[Tensor, Tensor], float]
    """Mean nats of ids and targets, without an update."""


def contender(
    name: str,
    shape: Shape,
    *,
    precision: str,
    compiled: bool,
    steps: int,
    optimizer: str = "adamw",
    rate: float = 6e-4,
    seed: int = 0,
    device: str = "cpu",
    accumulation: int = 1,
    document_tokens: int = 0,
) -> Contender:
    """The one of this name; an update is made from as many batches as `accumulation` says.

    Ours may be given windows of documents, so many tokens each, that are kept apart, and with another name rotary
    positions, as litgpt's has.
    """
    torch.manual_seed(seed)
    if name in (OURS, OURS_ROTARY):
        rotary = name == OURS_ROTARY
        return _ours(
            shape, precision, compiled, steps, optimizer, rate, seed, device, accumulation, document_tokens, rotary
        )
    model = {"nanogpt": NanoGPT, "transformers": _transformers, "litgpt": _litgpt}[name](shape).to(device)
    return _peer(model, precision, compiled, steps, rate, device, accumulation)


def _ours(
    shape: Shape,
    precision: str,
    compiled: bool,
    steps: int,
    optimizer: Any,
    rate: float,
    seed: int,
    device: str,
    accumulation: int,
    document_tokens: int,
    rotary: bool,
) -> Contender:
    from model.batches import Batch
    from model.gpt import GPT, GPTConfig
    from model.training import TrainingConfig, TrainingState, take_step

    model = GPT(
        GPTConfig(
            vocab_size=shape.vocab_size,
            context_length=shape.context_length,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            d_model=shape.d_model,
            norm="layernorm",
            positions="rope" if rotary else "learned",
            mlp="gelu",
            qkv_bias=True,
            linear_bias=True,
        )
    )
    config = TrainingConfig(
        steps=steps,
        learning_rate=rate,
        optimizer=optimizer,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        warmup_steps=min(steps // 20, 50),
        final_lr_fraction=0.1,
        seed=seed,
        gradient_accumulation=accumulation,
    )
    state = TrainingState(model, config, device)

    def step(ids_BT: Tensor, targets_BT: Tensor) -> float:
        documents_BT = None
        if document_tokens:
            documents_T = torch.arange(shape.context_length, device=device) // document_tokens
            documents_BT = documents_T.expand(len(ids_BT) // accumulation, -1).contiguous()
        batches = [
            Batch(*both, documents_BT=documents_BT)
            for both in zip(ids_BT.chunk(accumulation), targets_BT.chunk(accumulation), strict=True)
        ]
        return take_step(state, lambda position: batches[position % accumulation]).loss

    def evaluate(ids_BT: Tensor, targets_BT: Tensor) -> float:
        with torch.no_grad():
            return float(model.loss(ids_BT, targets_BT))

    return Contender(step, evaluate)


def _peer(
    model: nn.Module, precision: str, compiled: bool, steps: int, rate: float, device: str, accumulation: int
) -> Contender:
    """The loop that nanoGPT's train.py made usual, around any module from ids to logits."""
    from model.schedule import learning_rate_factor

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if compiled else model
    done = 0

    def loss_of(ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            logits_BTV = forward(ids_BT)
        # In bfloat16 the sum would be wrong in the second decimal.
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten())

    def step(ids_BT: Tensor, targets_BT: Tensor) -> float:
        nonlocal done
        factor = learning_rate_factor(
            done,
            steps=steps,
            warmup_steps=min(steps // 20, 50),
            schedule="cosine",
            decay_fraction=0,
            final_fraction=0.1,
        )
        for group in adamw.param_groups:
            group["lr"] = rate * factor
        model.train()
        adamw.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for ids, targets in zip(ids_BT.chunk(accumulation), targets_BT.chunk(accumulation), strict=True):
            loss = loss_of(ids, targets) / accumulation
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        done += 1
        return float(total)

    def evaluate(ids_BT: Tensor, targets_BT: Tensor) -> float:
        model.eval()
        with torch.no_grad():
            return float(loss_of(ids_BT, targets_BT))

    return Contender(step, evaluate)


class NanoGPT(nn.Module):
    """GPT-2 in the manner of nanoGPT: one matrix for query, key and value; fused attention; tied head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.d_model
        self.tokens, self.places = nn.Embedding(shape.vocab_size, width), nn.Embedding(shape.context_length, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(shape.n_layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, shape.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        rows, length = ids_BT.shape
        x = self.tokens(ids_BT) + self.places.weight[:length]
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm1"](x)).split(self.shape.d_model, dim=2)
            heads = [part.view(rows, length, self.shape.n_heads, -1).transpose(1, 2) for part in (q, k, v)]
            y = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(rows, length, -1)
            x = x + layer["out"](y)
            x = x + layer["down"](F.gelu(layer["up"](layer["norm2"](x)), approximate="tanh"))
        logits: Tensor = self.head(self.norm(x))
        return logits


def _transformers(shape: Shape) -> nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import GPT2Config, GPT2LMHeadModel

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=shape.vocab_size,
                    n_positions=shape.context_length,
                    n_embd=shape.d_model,
                    n_layer=shape.n_layers,
                    n_head=shape.n_heads,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                )
            )

        def forward(self, ids_BT: Tensor) -> Tensor:
            logits: Tensor = self.model(ids_BT, use_cache=False).logits
            return logits

    return Logits()


def _litgpt(shape: Shape) -> nn.Module:
    from litgpt import GPT, Config

    model = GPT(
        Config(
            block_size=shape.context_length,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_embd=shape.d_model,
            parallel_residual=False,
            bias=True,
            lm_head_bias=False,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
            gelu_approximate="tanh",
            intermediate_size=4 * shape.d_model,
        )
    )
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)
    return model
