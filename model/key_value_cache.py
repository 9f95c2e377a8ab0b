"""Keys and values of the tokens read so far in, those of all tokens out: what generation need not compute again.

Shape suffixes as in model/gpt.py, and L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from model.gpt import GPTConfig

ROOM_STEP = 64
"""Tokens by which a cache grows."""


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

    def branch(self, rows: Sequence[int], n_tokens: int) -> KeyValueCache:
        """A cache that goes on from these rows, each as often as it is named, with room for so many tokens in all."""
        branch = KeyValueCache(self.config, len(rows), self.capacity, self.like)
        branch.reserve(n_tokens)
        branch.length = self.length
        for to, row in enumerate(rows):
            branch.keys_LBKCS[:, to, ..., : self.length] = self.keys_LBKCS[:, row, ..., : self.length]
            branch.values_LBKSC[:, to, :, : self.length] = self.values_LBKSC[:, row, :, : self.length]
        return branch
