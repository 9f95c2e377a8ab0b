"""Token ids in, hidden states and logits out: one configurable decoder that covers the GPT-2 and the Llama families.

Top to bottom: configuration, normalisation, attention, feed-forward, block, network. What they call has files of its
own: rotary.py turns queries and keys by their positions, softmax_attention.py decides who looks at whom and mixes the
values, key_value_cache.py remembers, cross_entropy.py is the loss, config_checks.py refuses impossible shapes.

Shape suffixes of tensors: B rows of a batch, T new tokens, S tokens seen so far (cached and new), D d_model,
H query heads, K key/value heads, C head_dim, F d_ff, V vocabulary, N classes, M = rows of a flattened (B, T),
X = whatever the heads of a projection have together.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config_checks import check_names, complete
from model.cross_entropy import IGNORE, linear_cross_entropy
from model.dropout import dropout
from model.key_value_cache import KeyValueCache
from model.outline import without_numbers
from model.rotary import rotary_table, rotate
from model.softmax_attention import NARROWEST_IN_BLOCKS, Mask, attend, attention_mask

__all__ = ["GPT", "IGNORE", "GPTConfig", "KeyValueCache"]


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
        complete(self)  # decides what was left open above; ValueError for a shape that cannot be

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTConfig:
        """Undo `to_dict`; an unknown or missing key raises ValueError and names the nearest known one."""
        check_names(cls, values)
        return cls(**values)

    def parameter_count(self) -> int:
        """Trainable parameters of `GPT(self)`, without building it: a tied head counts once."""
        with without_numbers():
            return sum(p.numel() for p in GPT(self).parameters())


def make_norm(config: GPTConfig, width: int) -> nn.Module:
    """The configured normalisation over the last dimension."""
    kind = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(width, eps=config.norm_eps)


class Attention(nn.Module):
    """Causal self-attention, softmax(q·kᵀ / √C)·v, in which groups of query heads may share keys and values."""

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
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Mask | None, cache: KeyValueCache | None
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


def tanh_gelu(x: Tensor) -> Tensor:
    """x / 2 · (1 + tanh u) with u = √(2/π) · (x + 0.044715 x³), and as a compiler gets it x · σ(2u), which is the same.

    The tanh of a compiled kernel takes as long as reading and writing on a GPU; the exponential in σ is an instruction.
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.float()
    twice_u = math.sqrt(8 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (wide * torch.sigmoid(twice_u)).to(x.dtype)


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
            inner_BTF = tanh_gelu(up_BTF)
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
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Mask | None, cache: KeyValueCache | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x_BTD), rope, mask, cache)
        x_BTD = x_BTD + dropout(attended, self.dropout, self.training)
        return x_BTD + dropout(self.mlp(self.mlp_norm(x_BTD)), self.dropout, self.training)


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
        assert config.head_dim is not None
        self.config = config
        self.in_blocks = config.head_dim >= NARROWEST_IN_BLOCKS  # whether a GPU can keep documents apart so
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
        x_BTD = dropout(x_BTD, self.config.dropout, self.training)
        room = T if cache is None else cache.reserve(past + T)
        in_blocks = self.in_blocks and not (self.training and self.config.dropout)
        mask = attention_mask(T, past, room if past else T, padding_B, documents_BT, x_BTD, in_blocks)
        for block in self.blocks:
            x_BTD = block(x_BTD, rope, mask, cache)
        if cache is not None:
            cache.length += T
        hidden_BTD: Tensor = self.final_norm(x_BTD)
        return hidden_BTD

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
