"""Queries, keys, values and who may look at whom in, each query's mixture of the values out: softmax attention.

It is computed in one of four ways, whichever is quicker. Shape suffixes as in model/gpt.py, and G query heads per
key/value head, N = B × K pairs of row and key/value head, Q queries of a block, P keys up to its last query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from model.dropout import staying

Mask = Tensor | BlockMask

BLOCKWISE_LIMIT = 1024
"""Up to this many keys, on a CPU, matrix products of some queries at a time beat torch's fused attention. Forward and
backward, one Zen 5 core, torch 2.13: 12 rows, 6 heads of 64, 256 tokens in bfloat16 14.8 ms against 49.6, in float32
41.1 against 49.5; 4 rows, 12 heads, 1,024 tokens in bfloat16 117 against 273; with AVX2 alone, 512 tokens in float32,
81 against 130. Beyond, the fused one keeps no weights in memory. On a GPU it always wins."""
QUERIES_AT_ONCE = {torch.float32: 64, torch.bfloat16: 128}
"""A block's queries meet no keys behind its last one, which saves up to half of the work; smaller blocks save more of
it, and their products are slower."""
NARROWEST_IN_BLOCKS = 16
"""The narrowest head that torch's FlexAttention takes on a GPU; it knows no dropout."""
CACHED_LIMIT = 1024
"""The same for keys from a cache, as one block: they lie transposed, and the fused attention would copy them."""


def attend(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask_TS: Mask | None, dropout: float) -> Tensor:
    """Softmax attention; `mask_TS` (or B1TS) is added to the scores, None means plain causal. Returns (B, H, T, C).

    On a CPU up to `BLOCKWISE_LIMIT` keys of the queries' own tokens are met a block of queries at a time, and keys from
    a cache by all queries at once where either are few. Everything else, and all of a GPU's, is torch's fused one, or
    where the mask tells of whole blocks in which nothing is seen, the one that leaves them out (no dropout).
    """
    B, H, T, C = q_BHTC.shape
    if isinstance(mask_TS, BlockMask):
        mixed: Tensor = flex_attention(q_BHTC, k_BKSC, v_BKSC, block_mask=mask_TS, enable_gqa=k_BKSC.shape[1] != H)
        return mixed
    K, S = k_BKSC.shape[1:3]
    if q_BHTC.is_cpu and S == T <= BLOCKWISE_LIMIT:
        mask = None if mask_TS is None else mask_TS.expand(B, 1, T, T)
        if torch.compiler.is_compiling():
            return _blockwise_for_compiler(q_BHTC, k_BKSC, v_BKSC, mask, dropout)
        wanted = torch.is_grad_enabled() and any(each.requires_grad for each in (q_BHTC, k_BKSC, v_BKSC))
        y_BHTC: Tensor = _Blockwise.apply(q_BHTC, k_BKSC, v_BKSC, mask, dropout, wanted)  # type: ignore[no-untyped-call]
        return y_BHTC
    if q_BHTC.is_cpu and mask_TS is not None and (T == 1 or S <= CACHED_LIMIT):
        # The G heads that share a key stand below one another as G·T queries, so no key is ever copied.
        q_BKGTC = (q_BHTC * C**-0.5).reshape(B, K, H // K * T, C)
        scores = (q_BKGTC @ k_BKSC.transpose(-2, -1)).view(B, K, H // K, T, S)
        mask = mask_TS if mask_TS.dim() == 2 else mask_TS[:, None]
        if scores.requires_grad:  # a view that is written to takes two more copies in the backward pass
            weights = (scores + mask).softmax(-1)
        else:
            # In place: a second and third array of this size take two to four times as long as the arithmetic (10 rows,
            # 8 heads, 50 queries, 320 keys: 4.4 ms for 19.7, one Zen 3 core).
            scores += mask
            weights = torch.softmax(scores, -1, out=scores)
        weights = F.dropout(weights, dropout)
        return (weights.view(B, K, H // K * T, S) @ v_BKSC).view(B, H, T, C)
    causal = mask_TS is None
    return F.scaled_dot_product_attention(q_BHTC, k_BKSC, v_BKSC, mask_TS, dropout, is_causal=causal, enable_gqa=H != K)


class _Blockwise(torch.autograd.Function):
    """Causal attention, a block of queries at a time, with nothing of the scores' size written more than once.

    An array made anew costs as much as the arithmetic on it, so scores become weights in their own place, and the
    gradients of the weights become those of the scores.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, mask: Tensor | None, dropout: float, wanted: bool
    ) -> Tensor:
        B, H, T, C = q_BHTC.shape
        K, G = k_BKTC.shape[1], H // k_BKTC.shape[1]
        q_NGTC = torch.mul(q_BHTC, C**-0.5, out=q_BHTC.new_empty(q_BHTC.shape)).view(B * K, G, T, C)
        k_NTC, v_NTC = k_BKTC.reshape(B * K, T, C), v_BKTC.reshape(B * K, T, C)
        y_BTHC = q_BHTC.new_empty(B, T, H, C)
        kept: list[Tensor | None] = []
        for first, last in _blocks(T, q_BHTC.dtype):
            q_NQC = q_NGTC[:, :, first:last].reshape(B * K, -1, C)
            scores_NQP = torch.bmm(q_NQC, k_NTC[:, :last].transpose(1, 2))
            scores = scores_NQP.view(B, K, G, last - first, last)
            if mask is None:  # of the keys before the block all may be seen
                scores[..., first:] += _triangle(last - first, scores)
            else:
                scores += mask[:, :, None, first:last, :last]
            weights_NQP = torch.softmax(scores_NQP, -1, out=scores_NQP)
            staying_NQP = staying(weights_NQP.shape, dropout) if dropout else None
            y_NQC = torch.bmm(_mixing(weights_NQP, staying_NQP), v_NTC[:, :last])
            y_BTHC[:, first:last] = y_NQC.view(B, H, last - first, C).transpose(1, 2)
            if wanted:
                kept += [weights_NQP, staying_NQP]
        if wanted:
            ctx.save_for_backward(q_NGTC, k_NTC, v_NTC, *kept)
        if dropout:
            y_BTHC /= 1 - dropout
        ctx.dropout = dropout
        return y_BTHC.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y_BHTC,) = gradients
        q_NGTC, k_NTC, v_NTC, *kept = ctx.saved_tensors
        (N, G, T, C), (B, H) = q_NGTC.shape, grad_y_BHTC.shape[:2]
        if ctx.dropout:
            grad_y_BHTC = grad_y_BHTC / (1 - ctx.dropout)
        grad_y_NGTC = grad_y_BHTC.reshape(N, G, T, C)
        grad_q_NGTC, grad_k_NTC, grad_v_NTC = (torch.empty_like(each) for each in (q_NGTC, k_NTC, v_NTC))
        blocks = [*_blocks(T, q_NGTC.dtype)]
        # The last block is the one that sees all keys: it fills the sums to which the others add.
        for (first, last), weights_NQP, staying_NQP in reversed([*zip(blocks, kept[::2], kept[1::2], strict=True)]):
            q_NQC, grad_y_NQC = (each[:, :, first:last].reshape(N, -1, C) for each in (q_NGTC, grad_y_NGTC))
            grad_NQP = torch.bmm(grad_y_NQC, v_NTC[:, :last].transpose(1, 2))
            if staying_NQP is not None:
                grad_NQP *= staying_NQP
            grad_NQP = torch.ops.aten._softmax_backward_data(
                grad_NQP, weights_NQP, -1, grad_NQP.dtype, grad_input=grad_NQP
            )
            torch.mul(
                torch.bmm(grad_NQP, k_NTC[:, :last]).view(N, G, last - first, C),
                C**-0.5,
                out=grad_q_NGTC[:, :, first:last],
            )
            before = 0.0 if last == T else 1.0  # what is there already is nothing, or the later blocks' sum
            mixing_NQP = _mixing(weights_NQP, staying_NQP)
            grad_v_NTC[:, :last].baddbmm_(mixing_NQP.transpose(1, 2), grad_y_NQC, beta=before)
            grad_k_NTC[:, :last].baddbmm_(grad_NQP.transpose(1, 2), q_NQC, beta=before)
        shape = (B, N // B, T, C)
        return grad_q_NGTC.view(B, H, T, C), grad_k_NTC.view(shape), grad_v_NTC.view(shape), None, None, None


def _mixing(weights: Tensor, staying: Tensor | None) -> Tensor:
    """What is left of the weights after dropout; without it, they themselves."""
    return weights if staying is None else weights * staying


def _blockwise_for_compiler(
    q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """The same without a word about memory, which a compiler sees to itself."""
    B, H, T, C = q_BHTC.shape
    K, G = k_BKTC.shape[1], H // k_BKTC.shape[1]
    q_BKGTC = (q_BHTC * C**-0.5).reshape(B, K, G, T, C)
    blocks = []
    for first, last in _blocks(T, q_BHTC.dtype):
        q_BKQC = q_BKGTC[:, :, :, first:last].reshape(B, K, -1, C)
        scores = (q_BKQC @ k_BKTC[:, :, :last].transpose(2, 3)).view(B, K, G, last - first, last)
        unseen = (
            F.pad(_triangle(last - first, scores), (first, 0)) if mask is None else mask[:, :, None, first:last, :last]
        )
        weights = F.dropout((scores + unseen).softmax(-1), dropout)
        blocks.append((weights.view(B, K, -1, last) @ v_BKTC[:, :, :last]).view(B, H, last - first, C))
    return torch.cat(blocks, 2)


def _blocks(T: int, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """First query of each block, and the one behind its last."""
    size = QUERIES_AT_ONCE.get(dtype, 128)
    return ((first, min(T, first + size)) for first in range(0, T, size))


def _triangle(size: int, like: Tensor) -> Tensor:
    """(size, size): what to add to the scores of as many queries and their own keys, so that none looks ahead."""
    return torch.full((size, size), -math.inf, dtype=like.dtype, device=like.device).triu(1)


def attention_mask(
    T: int,
    past: int,
    room: int,
    padding_B: Tensor | None,
    documents_BT: Tensor | None,
    like: Tensor,
    in_blocks: bool = False,
) -> Mask | None:
    """What to add to the scores, (T, S) or (B, 1, T, S): 0 where a token may look, -inf where not.

    Of T new tokens after `past` cached ones, with S = `room` keys, filled or not; padding and documents as in
    `GPT.forward`. None is the plain causal pattern, which `attend` knows itself. Where it may be `in_blocks`, documents
    in bfloat16 are told so to a GPU whose code is compiled.
    """
    if past == 0 and padding_B is None and documents_BT is None:
        return None
    # 32 rows of 1,024 tokens with 12 heads of 64, forward and backward, on one H200: 1.70 ms in bfloat16 for 1.91 with
    # the mask, but in float32 28 for 15 (torch 2.11).
    compiled_on_gpu = like.is_cuda and torch.compiler.is_compiling() and like.dtype != torch.float32
    if in_blocks and compiled_on_gpu and documents_BT is not None and padding_B is None:
        return document_blocks(documents_BT)
    query = torch.arange(past, past + T, device=like.device)[:, None]
    key = torch.arange(room, device=like.device)[None, :]
    hidden = key > query
    if padding_B is not None:
        # A padding token still sees itself: a row of -inf alone would make softmax NaN.
        hidden = hidden | ((key < padding_B[:, None, None, None]) & (key != query))
    if documents_BT is not None:
        hidden = hidden | (documents_BT[:, None, :, None] != documents_BT[:, None, None, :])
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -math.inf)


def document_blocks(documents_BT: Tensor) -> BlockMask:
    """Who may look at whom, in blocks of 128 queries and keys; of those in which nobody may, nothing is computed."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents_BT[row, query] == documents_BT[row, key])

    B, T = documents_BT.shape
    return create_block_mask(visible, B, None, T, T, device=str(documents_BT.device))
