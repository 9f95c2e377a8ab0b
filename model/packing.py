"""Examples in, rows of several out: packed rows waste no padding, and no example looks into its neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from model.batches import Batch, Example, mixed_bits, shuffled
from model.gpt import IGNORE


@dataclass(frozen=True)
class PackedExamples:
    """Examples with a target per token, several to a row; each epoch visits every row once, in another order.

    Which examples share a row is settled once: the longest first, each into the fullest row that still has room (best
    fit decreasing). As attention and positions begin anew with every example, it makes no difference to what is
    learned from a row, only to the order.
    """

    examples: Sequence[Example]
    """All of them, in a fixed order."""
    context_length: int
    """Tokens per row at most."""
    batch_size: int
    """Rows per batch; the last of an epoch may be smaller."""
    seed: int
    """Another seed, another order."""
    padding_id: int
    """Fills short rows."""

    @cached_property
    def rows(self) -> list[list[int]]:
        """The numbers of the examples of each row."""
        lengths = [len(example.ids) for example in self.examples]
        with_room: dict[int, list[list[int]]] = {}
        rows: list[list[int]] = []
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            length = lengths[number]
            if length > self.context_length:
                raise ValueError(f"an example of {length} tokens does not fit into rows of {self.context_length}")
            room = next((r for r in range(length, self.context_length + 1) if with_room.get(r)), 0)
            if room:
                row = with_room[room].pop()
            else:
                room, row = self.context_length, []
                rows.append(row)
            row.append(number)
            with_room.setdefault(room - length, []).append(row)
        return rows

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, position: int) -> Batch:
        """The batch after `position` others."""
        epoch, within = divmod(position, len(self))
        n = len(self.rows)
        numbers = range(within * self.batch_size, min(n, (within + 1) * self.batch_size))
        return self._batch([self.rows[row] for row in shuffled(numbers, n, mixed_bits(self.seed, epoch))])

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        width = max(sum(len(self.examples[number].ids) for number in row) for row in rows)
        ids_BT = torch.full((len(rows), width), self.padding_id)
        targets_BT = torch.full((len(rows), width), IGNORE)
        documents_BT = torch.zeros((len(rows), width), dtype=torch.int64)
        for place, row in enumerate(rows):
            start = 0
            for count, number in enumerate(row):
                example = self.examples[number]
                end = start + len(example.ids)
                assert not isinstance(example.targets, int), "labels are read off a row's end, so rows hold one each"
                ids_BT[place, start:end] = torch.tensor(example.ids)
                targets_BT[place, start:end] = torch.tensor(example.targets)
                documents_BT[place, start:end] = count
                start = end
            documents_BT[place, start:] = len(row)
        return Batch(ids_BT, targets_BT, documents_BT=documents_BT)
