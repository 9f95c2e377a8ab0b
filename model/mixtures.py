"""Tokens of several sources and weights in, batches that mix them out, as a pure function of (seed, position).

The sources lie in one row of tokens, in pieces: nothing is copied and nothing tokenized again to mix them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from model.batches import Batch, Tokens, TokenWindows, batch_of, mixed_bits, shuffled

WINDOWS_PER_ROUND = 4096
"""In every round each source has its exact share of windows; a share is rounded to one in so many."""


class Pieces:
    """Some pieces of a row of tokens, one after the other, as a row of its own."""

    def __init__(self, tokens: Tokens, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        """Neighbouring pieces are joined, so that a source that lies in one stretch is one piece."""
        keep = lengths > 0
        starts, lengths = starts[keep], lengths[keep]
        new = np.ones(len(starts), bool)
        new[1:] = starts[1:] != starts[:-1] + lengths[:-1]
        at = np.flatnonzero(new)
        self._tokens = tokens
        self._starts = starts[at]
        self._ends = np.cumsum(np.add.reduceat(lengths, at)) if len(at) else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, where: slice) -> npt.NDArray[np.integer]:
        """Tokens from `where.start` to `where.stop`, in steps of one."""
        start, stop, _ = where.indices(len(self))
        piece = int(np.searchsorted(self._ends, start, "right"))
        parts = []
        while start < stop:
            before = int(self._ends[piece - 1]) if piece else 0
            end = min(stop, int(self._ends[piece]))
            shift = int(self._starts[piece]) - before
            parts.append(np.asarray(self._tokens[start + shift : end + shift]))
            start, piece = end, piece + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, np.uint16)])


@dataclass(frozen=True, eq=False)
class Mixture:
    """Batches in which each source has its share of the windows; within a source all are visited before any twice."""

    sources: Sequence[TokenWindows]
    """The windows of each source, all of one context length."""
    windows_per_round: Sequence[int]
    """How many windows of each a round holds, as `shares` works out."""
    batch_size: int
    """Windows per batch."""
    seed: int
    """Another seed, another order."""
    end_id: int | None = None
    """The token that ends a document; given, batches keep documents apart."""

    def __call__(self, position: int) -> Batch:
        """The batch after `position` others."""
        first = position * self.batch_size
        return batch_of([self._window(number) for number in range(first, first + self.batch_size)], self.end_id)

    def _window(self, number: int) -> npt.NDArray[np.integer]:
        turn, within = divmod(number, sum(self.windows_per_round))
        slot = self._slots(turn)[within]
        for source, quota in zip(self.sources, self.windows_per_round, strict=True):
            if slot < quota:
                return source.window(turn * quota + slot)
            slot -= quota
        raise AssertionError("a slot beyond the round")

    @lru_cache(maxsize=2)  # noqa: B019  # holds on to the sources no longer than training does
    def _slots(self, turn: int) -> list[int]:
        """The order of a round's windows."""
        n = sum(self.windows_per_round)
        return shuffled(range(n), n, mixed_bits(self.seed, turn, 2))


def shares(
    weights: Mapping[str, float], windows_per_epoch: Mapping[str, int], n_windows: int, max_epochs: float | None
) -> dict[str, int]:
    """Windows of each source in a round, after their weights, when `n_windows` are drawn in all.

    No source is gone through more than `max_epochs` times: what the cap takes from one is shared out among the others
    by their weights. ValueError if all of them together do not hold enough, or a source gets no window.
    """
    per_round = min(WINDOWS_PER_ROUND, n_windows)
    rounds = -(-n_windows // per_round)
    most = {
        name: per_round if max_epochs is None else int(windows_per_epoch[name] * max_epochs / rounds)
        for name in weights
    }
    if sum(most.values()) < per_round:
        raise ValueError(
            f"{n_windows:,} windows are drawn, but {max_epochs:g} times the sources hold only "
            f"{sum(most.values()) * rounds:,}; lower steps, raise max_epochs or add sources"
        )
    quota: dict[str, int] = {}
    left = dict(weights)
    while left:
        room, total = per_round - sum(quota.values()), sum(left.values())
        full = [name for name in left if room * left[name] / total > most[name]]
        for name in full:
            quota[name] = most[name]
            del left[name]
        if not full:
            quota |= _rounded({name: room * weight / total for name, weight in left.items()}, room, most)
            break
    if missing := [name for name in weights if not quota[name]]:
        raise ValueError(f"the source {missing[0]} would get no window; raise its weight or leave it out")
    return {name: quota[name] for name in weights}


def _rounded(exact: Mapping[str, float], total: int, most: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers that add up to `total`: the largest remainders are rounded up, the first of equals first."""
    whole = {name: int(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: whole[name] - exact[name])
    while (missing := total - sum(whole.values())) > 0:
        for name in [name for name in order if whole[name] < most[name]][:missing]:
            whole[name] += 1
    return whole
