"""Queries, keys, values and who may look at whom in, each query's mixture of the values out: softmax attention.

It is computed in one of two ways, whichever is quicker. Shape suffixes as in model/gpt.py, and G query heads per
key/value head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN_ATTENTION_LIMIT = 1024 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 0
"""Up to this many keys, on a CPU, two matrix products beat torch's fused attention. With AVX-512 they take 29 ms where
it takes 55 (8 rows, 4 heads, 256 keys, forward and backward, one Zen 5 core, torch 2.13); beyond 1,024 keys it wins.
Without, it is level at 256 keys (31 ms against 32, one Zen 3 core), twice as fast at 512, and keeps no weights in
memory. On a GPU it always wins."""
PLAIN_CACHED_LIMIT = 1024
"""The same for keys from a cache, on any CPU: they lie transposed, and the fused attention would copy them."""


def attend(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask_TS: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention; `mask_TS` (or B1TS) is added to the scores, None means plain causal. Returns (B, H, T, C)."""
    B, H, T, C = q_BHTC.shape
    K, S = k_BKSC.shape[1:3]
    limit = PLAIN_ATTENTION_LIMIT if S == T else PLAIN_CACHED_LIMIT
    if q_BHTC.is_cpu and mask_TS is not None and (T == 1 or limit >= S):
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


def attention_mask(
    T: int, past: int, room: int, padding_B: Tensor | None, documents_BT: Tensor | None, like: Tensor
) -> Tensor | None:
    """What to add to the scores, (T, S) or (B, 1, T, S): 0 where a token may look, -inf where not.

    Of T new tokens after `past` cached ones, with S = `room` keys, filled or not; padding and documents as in
    `GPT.forward`. None is the plain causal pattern where `attend` has the fused kernel make it.
    """
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
