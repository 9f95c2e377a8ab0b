"""Token ids in, hidden states and logits out: one configurable decoder that covers the GPT-2 and the Llama families.

Top to bottom: configuration, positions, cache, attention, feed-forward, block, network.

Shape suffixes of tensors: B rows of a batch, T new tokens, S tokens seen so far (cached and new), D d_model,
H query heads, K key/value heads, G query heads per key/value head, C head_dim, F d_ff, V vocabulary, N classes,
M = rows of a flattened (B, T).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cross_entropy import IGNORE, linear_cross_entropy
from model.outline import without_numbers

__all__ = ["GPT", "IGNORE", "GPTConfig", "KeyValueCache"]

PLAIN_ATTENTION_LIMIT = 1024
"""Up to this many keys, on a CPU, two matrix products beat torch's fused attention (29 against 55 ms at 256 keys,
forward and backward, one Zen 5 core, torch 2.13); beyond it the fused one wins, and on a GPU it always does."""

ROOM_STEP = 64
"""Tokens by which a cache grows."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. The defaults are the Llama shape, which every serving tool can load."""

    vocab_size: int
    """Rows of the embedding: every token id is below it."""
    context_length: int
    """Most tokens that the model sees at once."""
    n_layers: int
    """Blocks, one after another."""
    n_heads: int
    """Query heads per block."""
    d_model: int
    """Width of the residual stream."""
    n_kv_heads: int | None = None
    """Key/value heads, shared by groups of query heads; n_heads when not given."""
    d_ff: int | None = None
    """Width of the feed-forward layer; when not given 4 × d_model for gelu, 8/3 × d_model (up to 64s) for swiglu."""
    head_dim: int | None = None
    """Width of one head; d_model / n_heads when not given."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """Normalisation before each half of a block and before the head."""
    positions: Literal["learned", "rope"] = "rope"
    """How a token knows its place: a learned vector added at the bottom, or rotated queries and keys."""
    mlp: Literal["gelu", "swiglu"] = "swiglu"
    """The feed-forward layer: tanh-GELU between two matrices, or SiLU-gated with three."""
    qkv_bias: bool = False
    """Biases on query, key and value."""
    linear_bias: bool = False
    """Biases on attention output and feed-forward."""
    qk_norm: bool = False
    """RMS-normalise each head's query and key before rotation (Qwen3)."""
    tied_head: bool = True
    """The head's matrix is the token embedding's."""
    dropout: float = 0.0
    """Share of activations zeroed in training: embeddings, attention weights, both residual branches."""
    rope_theta: float = 10_000.0
    """Base of the rotation's wavelengths."""
    rope_scaling: tuple[float, float, float, int] | None = None
    """Llama 3's stretching of long wavelengths: factor, low and high frequency factor, original context length."""
    norm_eps: float = 1e-5
    """Added to the variance in every normalisation."""
    n_classes: int = 0
    """0: a language model; otherwise a classifier with this many classes, read off the last token."""

    def __post_init__(self) -> None:
        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name, allowed in (("norm", NORMS), ("positions", POSITIONS), ("mlp", MLPS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(allowed)}")
        if self.head_dim is None:
            if self.d_model % self.n_heads:
                raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}; give head_dim")
            settle("head_dim", self.d_model // self.n_heads)
        if self.n_kv_heads is None:
            settle("n_kv_heads", self.n_heads)
        if self.d_ff is None:
            settle("d_ff", 4 * self.d_model if self.mlp == "gelu" else -(-8 * self.d_model // 192) * 64)
        assert self.head_dim is not None and self.n_kv_heads is not None and self.d_ff is not None
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim < 1 or self.d_ff < 1:
            raise ValueError(f"head_dim {self.head_dim} and d_ff {self.d_ff} must be at least 1")
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, but rotary positions need pairs")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}, but must be at least 0 and below 1")
        if self.n_classes < 0 or self.n_classes == 1:
            raise ValueError(f"n_classes is {self.n_classes}, but must be 0 (language model) or at least 2")
        if self.rope_scaling is not None:
            settle("rope_scaling", tuple(self.rope_scaling))
            if len(self.rope_scaling) != 4:
                raise ValueError("rope_scaling needs factor, low and high frequency factor, original context length")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTConfig:
        """Undo `to_dict`; an unknown or missing key raises ValueError and names the nearest known one."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                raise ValueError(f"unknown model setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
        if missing:
            raise ValueError(f"model settings are missing: {', '.join(missing)}")
        return cls(**values)

    def parameter_count(self) -> int:
        """Trainable parameters of `GPT(self)`, without building it: a tied head counts once."""
        with without_numbers():
            return sum(p.numel() for p in GPT(self).parameters())


NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("learned", "rope")
MLPS = ("gelu", "swiglu")


def make_norm(config: GPTConfig, width: int) -> nn.Module:
    """The configured normalisation over the last dimension."""
    kind = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(width, eps=config.norm_eps)


def rotary_frequencies(config: GPTConfig) -> Tensor:
    """Angle per position of each of the C/2 pairs (Su et al., "RoFormer"), with Llama 3's stretching where asked."""
    assert config.head_dim is not None
    exponent = torch.arange(0, config.head_dim, 2, device="cpu", dtype=torch.float32) / config.head_dim
    frequency = 1.0 / config.rope_theta**exponent
    if config.rope_scaling is None:
        return frequency
    factor, low, high, original = config.rope_scaling
    # Waves shorter than original/high are kept, longer than original/low are stretched, between them a blend.
    turns = original * frequency / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequency * kept + frequency / factor * (1 - kept)


def rotary_table(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine for every position, (context_length, C); both halves of a row are alike."""
    angles = torch.outer(torch.arange(config.context_length, device="cpu").float(), rotary_frequencies(config))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (c, c + C/2): the half-split layout of Llama's published weights."""
    low, high = x_BHTC.chunk(2, dim=-1)
    return x_BHTC * cos + torch.cat((-high, low), dim=-1) * sin


class KeyValueCache:
    """Keys and values of the tokens already seen, so that a new token costs one row of attention."""

    def __init__(self, config: GPTConfig, batch_size: int, capacity: int, like: Tensor) -> None:
        """Room for `capacity` tokens per row, taken as it is needed, in the device and precision of `like`."""
        self.config, self.batch_size, self.capacity, self.like = config, batch_size, capacity, like
        self.length = 0
        self.keys_LBKCS, self.values_LBKSC = self._zeros(0)

    def _zeros(self, room: int) -> tuple[Tensor, Tensor]:
        # Keys lie transposed in memory: a query meets them so, and a CPU multiplies in half the time.
        L, B, K, C = self.config.n_layers, self.batch_size, self.config.n_kv_heads, self.config.head_dim
        assert K is not None and C is not None
        return self.like.new_zeros((L, B, K, C, room)), self.like.new_zeros((L, B, K, room, C))

    def reserve(self, n_tokens: int) -> int:
        """Make room for as many tokens in all, some more in advance; the room there is, filled or not.

        Attention reads all of it, the unfilled part masked: a CPU would first copy what is not whole in memory.
        """
        room = self.keys_LBKCS.shape[-1]
        if n_tokens > room:
            keys, values = self._zeros(-(-n_tokens // ROOM_STEP) * ROOM_STEP)
            keys[..., :room], values[..., :room, :] = self.keys_LBKCS, self.values_LBKSC
            self.keys_LBKCS, self.values_LBKSC = keys, values
        return self.keys_LBKCS.shape[-1]

    def extend(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer; returns all of the layer's room, (B, K, S, C) twice."""
        end = self.length + k_BKTC.shape[2]
        self.keys_LBKCS[layer, ..., self.length : end] = k_BKTC.transpose(-2, -1)
        self.values_LBKSC[layer, :, :, self.length : end] = v_BKTC
        if self.length == 0:
            return k_BKTC, v_BKTC  # the first tokens see one another only
        return self.keys_LBKCS[layer].transpose(-2, -1), self.values_LBKSC[layer]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows of the batch but these."""
        self.batch_size = len(rows)
        self.keys_LBKCS, self.values_LBKSC = self.keys_LBKCS[:, rows], self.values_LBKSC[:, rows]


def attend(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask_TS: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention; `mask_TS` (or B1TS) is added to the scores, None means plain causal. Returns (B, H, T, C)."""
    B, H, T, C = q_BHTC.shape
    K, S = k_BKSC.shape[1:3]
    if q_BHTC.is_cpu and mask_TS is not None and (T == 1 or S <= PLAIN_ATTENTION_LIMIT):
        # The G heads that share a key stand below one another as G·T queries, so no key is ever copied.
        q_BKGTC = (q_BHTC * C**-0.5).reshape(B, K, H // K * T, C)
        scores = (q_BKGTC @ k_BKSC.transpose(-2, -1)).view(B, K, H // K, T, S)
        scores = scores + (mask_TS if mask_TS.dim() == 2 else mask_TS[:, None])
        weights = F.dropout(scores.softmax(-1), dropout)
        return (weights.view(B, K, H // K * T, S) @ v_BKSC).view(B, H, T, C)
    causal = mask_TS is None
    return F.scaled_dot_product_attention(q_BHTC, k_BKSC, v_BKSC, mask_TS, dropout, is_causal=causal, enable_gqa=H != K)


class Attention(nn.Module):
    """Causal self-attention in which groups of query heads may share keys and values."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        assert config.n_kv_heads is not None and config.head_dim is not None
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.dropout
        self.query = nn.Linear(config.d_model, config.n_heads * config.head_dim, bias=config.qkv_bias)
        self.key = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=config.qkv_bias)
        self.value = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=config.qkv_bias)
        self.output = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=config.linear_bias)
        self.query_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.kv_width = config.n_kv_heads * config.head_dim
        self.fused: nn.Module | None = None  # query, key and value in one product: model/inference.py

    def forward(
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        if self.fused is None:
            qkv = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        else:
            qkv_BTX = self.fused(x_BTD)
            qkv = qkv_BTX.split([qkv_BTX.shape[-1] - 2 * self.kv_width, self.kv_width, self.kv_width], dim=-1)
        q_BHTC, k_BKTC, v_BKSC = (part_BTX.view(B, T, -1, self.head_dim).transpose(1, 2) for part_BTX in qkv)
        if self.query_norm is not None and self.key_norm is not None:
            q_BHTC, k_BKTC = self.query_norm(q_BHTC), self.key_norm(k_BKTC)
        if rope is not None:
            q_BHTC, k_BKTC = rotate(q_BHTC, *rope), rotate(k_BKTC, *rope)
        k_BKSC = k_BKTC
        if cache is not None:
            k_BKSC, v_BKSC = cache.extend(self.layer, k_BKTC, v_BKSC)
        y_BHTC = attend(q_BHTC, k_BKSC, v_BKSC, mask, self.dropout if self.training else 0.0)
        y_BTD: Tensor = self.output(y_BHTC.transpose(1, 2).reshape(B, T, -1))
        return y_BTD


class FeedForward(nn.Module):
    """Two matrices around tanh-GELU, or three with a SiLU gate (Shazeer, "GLU Variants Improve Transformer")."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.gate = nn.Linear(config.d_model, config.d_ff, config.linear_bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(config.d_model, config.d_ff, config.linear_bias)
        self.down = nn.Linear(config.d_ff, config.d_model, config.linear_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        up_BTF = self.up(x_BTD)
        if self.gate is None:
            inner_BTF = F.gelu(up_BTF, approximate="tanh")
        else:
            inner_BTF = F.silu(self.gate(x_BTD)) * up_BTF
        y_BTD: Tensor = self.down(inner_BTF)
        return y_BTD


class Block(nn.Module):
    """Attention, then feed-forward, each normalised before and added to the residual stream after."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.d_model)
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp = FeedForward(config)
        self.dropout = config.dropout

    def forward(
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x_BTD), rope, mask, cache)
        x_BTD = x_BTD + F.dropout(attended, self.dropout, self.training)
        return x_BTD + F.dropout(self.mlp(self.mlp_norm(x_BTD)), self.dropout, self.training)


class GPT(nn.Module):
    """The whole network: embeddings, blocks, final normalisation, head."""

    cos_TC: Tensor
    sin_TC: Tensor

    def __init__(self, config: GPTConfig) -> None:
        """Random weights from torch's global generator (seed it first).

        GPT-2's scheme: normal with deviation 0.02, but for an embedding that is not also the head. That one starts at
        0.5, the order of what the blocks will add to it. Untied so, with a rate of its own, 4 layers of 256 reach 1.76
        bits per byte after 490,000 tokens; the tied model, with a rate of 8e-3, reached 1.86 (one seed each).
        """
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.context_length, config.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.final_norm = make_norm(config, config.d_model)
        self.head: nn.Module | None = None  # a Linear, or for inference what stands for it
        if config.n_classes:
            self.head = nn.Linear(config.d_model, config.n_classes, bias=False)
        elif not config.tied_head:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if not learned:
            cos_TC, sin_TC = rotary_table(config)
            self.register_buffer("cos_TC", cos_TC, persistent=False)
            self.register_buffer("sin_TC", sin_TC, persistent=False)
        self.apply(self._initialise)
        if self.head is not None:
            nn.init.normal_(self.token_embedding.weight, std=0.5)
        for name, parameter in self.named_parameters():
            # The residual stream adds up 2 × n_layers branches; this keeps its variance independent of depth (GPT-2).
            if name.endswith(("attention.output.weight", "mlp.down.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layers))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self,
        ids_BT: Tensor,
        cache: KeyValueCache | None = None,
        padding_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) after the final norm, which `logits` turns into scores.

        `cache` holds the tokens before these and is extended. `padding_B` counts each row's padding tokens on the
        left (of everything, cached tokens included); they are never attended to and do not shift positions.
        `documents_BT`, counted along the row, keeps packed documents apart, without a cache: no token looks into
        another document, and positions begin anew in each.
        """
        T, past = ids_BT.shape[1], 0 if cache is None else cache.length
        if past + T > self.config.context_length:
            raise ValueError(f"{past + T} tokens do not fit into the context length {self.config.context_length}")
        positions = torch.arange(past, past + T, device=ids_BT.device)
        if padding_B is not None:
            positions = (positions - padding_B[:, None]).clamp(min=0)
        if documents_BT is not None:
            begins = F.pad(documents_BT[:, 1:] != documents_BT[:, :-1], (1, 0))
            positions = positions - (positions * begins).cummax(-1).values
        x_BTD = self.token_embedding(ids_BT)
        rope = None
        if self.position_embedding is not None:
            x_BTD = x_BTD + self.position_embedding(positions)
        else:
            cos, sin = self.cos_TC[positions], self.sin_TC[positions]
            rope = (cos, sin) if positions.dim() == 1 else (cos[:, None], sin[:, None])
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        room = T if cache is None else cache.reserve(past + T)
        mask = self._mask(T, past, room if past else T, padding_B, documents_BT, x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, rope, mask, cache)
        if cache is not None:
            cache.length += T
        hidden_BTD: Tensor = self.final_norm(x_BTD)
        return hidden_BTD

    @staticmethod
    def _mask(
        T: int, past: int, room: int, padding_B: Tensor | None, documents_BT: Tensor | None, like: Tensor
    ) -> Tensor | None:
        """What to add to the scores, (T, S) or (B, 1, T, S): 0 where a token may look, -inf where not."""
        plain = padding_B is None and documents_BT is None
        if past == 0 and plain and not (like.is_cpu and T <= PLAIN_ATTENTION_LIMIT):
            return None  # the fused kernel knows the causal pattern itself
        query = torch.arange(past, past + T, device=like.device)[:, None]
        key = torch.arange(room, device=like.device)[None, :]
        hidden = key > query
        if padding_B is not None:
            # A padding token still sees itself: a row of -inf alone would make softmax NaN.
            hidden = hidden | ((key < padding_B[:, None, None, None]) & (key != query))
        if documents_BT is not None:
            hidden = hidden | (documents_BT[:, None, :, None] != documents_BT[:, None, None, :])
        return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -math.inf)

    def head_weight(self) -> Tensor:
        """The matrix that turns hidden states into scores, (V, D) or (N, D)."""
        weight = self.token_embedding.weight if self.head is None else self.head.weight
        assert isinstance(weight, Tensor)
        return weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary (or the classes) in float32, for hidden states of any leading shape."""
        return (F.linear(hidden, self.token_embedding.weight) if self.head is None else self.head(hidden)).float()

    def classify(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Class scores (B, N) in float32 of rows padded on the right, read at each row's last real token."""
        hidden_BTD = self(ids_BT)
        rows = torch.arange(len(ids_BT), device=ids_BT.device)
        return self.logits(hidden_BTD[rows, lengths_B - 1])

    def loss(
        self,
        ids_BT: Tensor,
        targets: Tensor,
        lengths_B: Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        documents_BT: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> Tensor:
        """Cross-entropy in nats: of the next token (targets BT, IGNORE counts nothing) or of the class (targets B).

        `z_loss` weighs a penalty on large logits, of the next token only; see model/cross_entropy.py.
        """
        if self.config.n_classes:
            assert lengths_B is not None, "a classifier needs the rows' lengths"
            return F.cross_entropy(self.classify(ids_BT, lengths_B), targets, reduction=reduction)
        hidden_MD = self(ids_BT, documents_BT=documents_BT).flatten(0, 1)
        total = linear_cross_entropy(hidden_MD, self.head_weight(), targets.flatten(), z_loss)
        return total if reduction == "sum" else total / (targets != IGNORE).sum()

    def with_classifier(self, n_classes: int) -> GPT:
        """A copy of this network with a fresh head over `n_classes`, trained from here on to classify."""
        copy = GPT(dataclasses.replace(self.config, n_classes=n_classes)).to(self.token_embedding.weight.device)
        trunk = {name: value for name, value in self.state_dict().items() if not name.startswith("head.")}
        copy.load_state_dict(trunk, strict=False)
        return copy
