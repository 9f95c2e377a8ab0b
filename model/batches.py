"""Tokens or examples in, batches out, in an order that is a pure function of (seed, position).

A position is one integer, the number of batches before this one. There is no iterator to save and no epoch to count:
whoever knows the position knows the batch, on any machine and after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.gpt import IGNORE

POOL_BATCHES = 32
"""Batches whose examples are dealt out by length. Of the padding in the default fine-tuning (28 % of the assistant's
tokens, 39 % of the classifier's) that leaves 2 and 3 %."""
ORDERED_AT_ONCE = 4096
"""Windows whose order is worked out in one go: a window at a time it costs more than reading it."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass needs; shapes as in model/gpt.py."""

    ids_BT: Tensor
    """Token ids, int64; rows padded on the right."""
    targets: Tensor
    """The next token of each position (B, T), or one class per row (B,); IGNORE is not scored."""
    lengths_B: Tensor | None = None
    """Real tokens per row; given for classes."""
    documents_BT: Tensor | None = None
    """The document of each token, counted along the row; given where no token may look into another document."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        lengths_B = None if self.lengths_B is None else self.lengths_B.to(device)
        documents_BT = None if self.documents_BT is None else self.documents_BT.to(device)
        return Batch(self.ids_BT.to(device), self.targets.to(device), lengths_B, documents_BT)

    def rows(self, which: slice) -> Batch:
        """Some of its rows."""
        lengths_B = None if self.lengths_B is None else self.lengths_B[which]
        documents_BT = None if self.documents_BT is None else self.documents_BT[which]
        return Batch(self.ids_BT[which], self.targets[which], lengths_B, documents_BT)

    def __len__(self) -> int:
        """Its rows."""
        return len(self.ids_BT)

    def parts(self, at_once: int) -> list[Batch]:
        """The same rows, so many at once; 0 leaves them together."""
        if not at_once or at_once >= len(self):
            return [self]
        return [self.rows(slice(first, first + at_once)) for first in range(0, len(self), at_once)]

    def scored(self) -> int:
        """Targets that count in the loss."""
        return int((self.targets != IGNORE).sum())


@dataclass(frozen=True)
class Example:
    """One text to fine-tune on: its tokens, and either a target per token or one label."""

    ids: list[int]
    targets: list[int] | int

    def scored(self) -> int:
        """Targets that count in the loss."""
        return 1 if isinstance(self.targets, int) else sum(target != IGNORE for target in self.targets)


class Tokens(Protocol):
    """A row of tokens: an array, a memory map, or anything that slices like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> npt.NDArray[np.integer]: ...


@runtime_checkable
class Divided(Tokens, Protocol):
    """A row of tokens that lies in several parts."""

    def located(self, starts: npt.NDArray[np.int64], length: int) -> list[tuple[Tokens, int]]:
        """For each start the part in which that many tokens from it lie, and where there; the row itself if in none."""


@dataclass(frozen=True)
class TokenWindows:
    """Windows of a long row of tokens; each epoch visits every window once, in another order, cut at another offset."""

    tokens: Tokens
    """The corpus, flat; a memory map is read only where a window lies."""
    context_length: int
    """Tokens per window."""
    batch_size: int
    """Windows per batch."""
    seed: int
    """Another seed, another order."""
    end_id: int | None = None
    """The token that ends a document; given, batches keep documents apart."""
    windows_per_epoch: int = field(init=False, repr=False, compare=False)
    """One fewer than would fit, where there are several, so that each epoch can start at another offset."""
    _places: Callable[[int, int], list[tuple[Tokens, int]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Each remembers its own order: a mixture draws from many in turn.
        object.__setattr__(self, "_places", lru_cache(maxsize=2)(self._ordered))
        if len(self.tokens) <= self.context_length:
            raise ValueError(
                f"{len(self.tokens):,} tokens are too few for one window of {self.context_length} and its target; "
                "lower context_length or add text"
            )
        # Once: to ask a row of many shards for its length for every window costs 4 % of reading them.
        object.__setattr__(self, "windows_per_epoch", max(1, (len(self.tokens) - 1) // self.context_length - 1))

    def __call__(self, position: int) -> Batch:
        """The batch after `position` others."""
        first = position * self.batch_size
        return batch_of([self.window(number) for number in range(first, first + self.batch_size)], self.end_id)

    def window(self, number: int) -> npt.NDArray[np.integer]:
        """The tokens of the window of this overall number, and the target of its last."""
        epoch, index = divmod(number, self.windows_per_epoch)
        block, within = divmod(index, ORDERED_AT_ONCE)
        tokens, start = self._places(epoch, block)[within]
        return np.asarray(tokens[start : start + self.context_length + 1])

    def _ordered(self, epoch: int, block: int) -> list[tuple[Tokens, int]]:
        """Where an epoch's windows start, one block of them, each in the smallest row of tokens that holds it."""
        n = self.windows_per_epoch
        indices = range(block * ORDERED_AT_ONCE, min(n, (block + 1) * ORDERED_AT_ONCE))
        slack = len(self.tokens) - 1 - n * self.context_length
        offset = mixed_bits(self.seed, epoch, 1) % (slack + 1)
        order = shuffled(indices, n, mixed_bits(self.seed, epoch))
        starts = offset + np.array(order) * self.context_length
        if isinstance(self.tokens, Divided):
            return self.tokens.located(starts, self.context_length + 1)
        return [(self.tokens, start) for start in starts.tolist()]


def batch_of(windows: Sequence[npt.NDArray[np.integer]], end_id: int | None) -> Batch:
    """Windows with one token more than the context, as inputs and targets; with `end_id`, documents are kept apart.

    An end-of-text begins the document after it, as it begins every prompt: the first word is predicted from it alone,
    and it is itself predicted from the document that it ends. So every target is scored, and none across a boundary.
    """
    wide = np.array(windows).astype(np.int64)
    ids_BT, targets_BT = torch.from_numpy(wide[:, :-1]), torch.from_numpy(wide[:, 1:])
    documents_BT = None if end_id is None else (ids_BT == end_id).cumsum(1)
    return Batch(ids_BT, targets_BT, documents_BT=documents_BT)


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples; each epoch visits every one once, in another order.

    Within a pool of shuffled batches, those of like length go together: padding is computed like any other token. The
    batches of a pool are shuffled again, so that the lengths do not rise as training goes on.
    """

    examples: Sequence[Example]
    """All of them, in a fixed order."""
    batch_size: int
    """Examples per batch; the last of an epoch may be smaller."""
    seed: int
    """Another seed, another order."""
    padding_id: int
    """Fills short rows; any id does, for nothing looks at it."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is smaller than the others."""

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ValueError(f"{len(self.examples)} examples make no batch of {self.batch_size}")

    def __len__(self) -> int:
        """Batches per epoch."""
        n = len(self.examples)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __call__(self, position: int) -> Batch:
        """The batch after `position` others."""
        epoch, within = divmod(position, len(self))
        pool, within_pool = divmod(within, POOL_BATCHES)
        return collate([self.examples[i] for i in self._pool(epoch, pool)[within_pool]], self.padding_id)

    @lru_cache(maxsize=1)  # noqa: B019  # holds on to the examples no longer than training does
    def _pool(self, epoch: int, pool: int) -> list[list[int]]:
        """The examples of each batch in a pool, by number; a short batch stays the last."""
        n, size = len(self.examples), self.batch_size
        first = pool * POOL_BATCHES * size
        indices = range(first, min(n, first + POOL_BATCHES * size))
        dealt = shuffled(indices, n, mixed_bits(self.seed, epoch))
        dealt.sort(key=lambda i: len(self.examples[i].ids))
        full = len(dealt) // size
        batches = [dealt[k * size : (k + 1) * size] for k in range(full)]
        mixed = [batches[k] for k in shuffled(range(full), full, mixed_bits(self.seed, epoch, pool))]
        return [*mixed, dealt[full * size :]] if len(dealt) > full * size else mixed


def collate(examples: Sequence[Example], padding_id: int) -> Batch:
    """Rows padded on the right to the longest; padding's targets are IGNORE, so the loss does not see it."""
    width = max(len(example.ids) for example in examples)
    ids_BT = torch.full((len(examples), width), padding_id)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.ids)] = torch.tensor(example.ids)
    lengths_B = torch.tensor([len(example.ids) for example in examples])
    labels = [example.targets for example in examples if isinstance(example.targets, int)]
    if len(labels) == len(examples):
        return Batch(ids_BT, torch.tensor(labels), lengths_B)
    targets_BT = torch.full((len(examples), width), IGNORE)
    for row, example in enumerate(examples):
        if isinstance(example.targets, int) or len(example.targets) != len(example.ids):
            raise ValueError("a batch mixes labels and token targets, or has not one target per token")
        targets_BT[row, : len(example.targets)] = torch.tensor(example.targets)
    return Batch(ids_BT, targets_BT, lengths_B)


def shuffled(indices: range, size: int, key: int) -> list[int]:
    """Where `indices` land in a random order of range(size), found without making the order.

    A four-round Feistel network over the next power of four is a bijection; results beyond `size` are sent through
    again, which keeps it one (Black and Rogaway, "Ciphers with Arbitrary Finite Domains"). It costs the same for ten
    windows and for ten billion.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    places = np.arange(indices.start, indices.stop, dtype=np.uint64)
    beyond = np.arange(len(places))
    while len(beyond):
        left, right = places[beyond] >> half_bits, places[beyond] & mask
        for turn in range(4):
            left, right = right, left ^ (_stirred(mixed_bits(key, turn) + right) & mask)
        places[beyond] = left << half_bits | right
        beyond = beyond[places[beyond] >= size]
    order: list[int] = places.tolist()
    return order


def mixed_bits(*numbers: int) -> int:
    """64 well-mixed bits of some integers (the finaliser of splitmix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = _stirred(state + number)
    return state


def _stirred(bits: Any) -> Any:
    """Of one integer, or of each in an array of uint64."""
    bits = (bits + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return bits ^ bits >> 31
