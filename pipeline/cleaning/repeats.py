"""Goes in: the outcomes of a table's parts, in order. Comes out: which records repeat one before them, and which one.

It is the one question of cleaning that all records must be asked together. What it needs of each lies in files, a
column in each; in memory is one column at a time with the order of its values, some forty bytes for each record.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cleaning.near_duplicates import BANDS, BYTES_PER_DOCUMENT, clusters
from pipeline.cleaning.outcomes import Outcome, Repeats

_IDS, _LABELS, _DIGESTS, _HEADS, _STANDS, _STAYS = "ids", "labels", "digests", "heads", "stands", "stays"
_DIGEST_BYTES, _HEAD_BYTES, _LABEL_BYTES = 32, 8, 8
_UNLIKE_ANY = bytes(BYTES_PER_DOCUMENT)

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Records by their places in the table, in order, and for each the place of the first record that it repeats."""

    places: Places
    firsts: Places


NO_PAIRS = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))


class RepeatFinder:
    """Takes the outcomes of parts, and holds none of them."""

    def __init__(self, folder: Path) -> None:
        """Columns go to files in the new folder `folder`."""
        folder.mkdir()
        self._folder = folder
        self._starts = [0]

    def add(self, outcome: Outcome) -> None:
        """Take the outcome of the next part."""
        rows = outcome.rows
        digests = rows["digest"].to_pylist()
        self._append(_IDS, bytes.fromhex("".join(rows["id"].to_pylist())))
        self._append(_LABELS, b"".join(map(_digest_of_label, rows["label"].to_pylist())))
        self._append(_DIGESTS, b"".join(digests))
        self._append(_HEADS, b"".join([digest[:_HEAD_BYTES] for digest in digests]))
        self._append(_STANDS, bytes(rows["stands"].to_pylist()))
        self._append(_STAYS, bytes([not reason for reason in rows["reason"].to_pylist()]))
        bands = b"".join([bands or _UNLIKE_ANY for bands in rows["bands"].to_pylist()])
        for band, of_each in enumerate(np.frombuffer(bands, np.uint64).reshape(-1, BANDS).T):
            self._append(_band(band), of_each.tobytes())
        self._starts.append(self._starts[-1] + rows.num_rows)

    def exact(self) -> Pairs:
        """The records whose text stands in one before, be it that of a record that is dropped for its words.

        A record that repeats one is dropped for that, whatever its own words say.
        """
        # Of the texts a b a c b the first bytes say that places 0 2 and 1 4 are alike: alike = 0 1 2 4. Ordered by
        # the whole digests they are 0 2 1 4, of which 0 and 1 begin a text: 2 and 4 repeat the one that began last.
        # The first bytes tell nearly all texts apart; of the others alone the whole digests are read.
        heads = self._column(_HEADS, np.uint64)
        order = np.argsort(heads, kind="stable")
        heads = heads[order]
        as_next = np.append(heads[1:] == heads[:-1], False)[: len(heads)]
        alike = np.sort(order[as_next | np.roll(as_next, 1)])
        alike = alike[self._column(_STANDS, np.bool_)[alike]]
        digests = self._wide(_DIGESTS, alike).view(np.uint64)
        order = np.lexsort(digests.T)  # it is stable: of equal ones the first in the table comes first
        alike, digests = alike[order], digests[order]
        begins = np.append(True, (digests[1:] != digests[:-1]).any(axis=1))[: len(alike)]
        firsts = alike[np.maximum.accumulate(np.where(begins, np.arange(len(alike)), 0))]
        order = np.argsort(alike[~begins])
        return Pairs(alike[~begins][order], firsts[~begins][order])

    def near(self, exact: Pairs) -> Pairs:
        """The records that stay, and are none of `exact`, and nearly repeat one before them."""
        goes = ~self._column(_STAYS, np.bool_)
        goes[exact.places] = True

        def digests(band: int) -> npt.NDArray[np.uint64]:
            column = self._column(_band(band), np.uint64)
            column[goes] = 0  # like no other
            return column

        firsts = clusters(map(digests, range(BANDS)))
        [places] = np.nonzero(firsts != np.arange(len(firsts)))
        return Pairs(places, firsts[places])

    def repeats_of(self, part: int, pairs: Pairs, said: str) -> Repeats:
        """The rows of a part that are among the pairs, each with a reason: what is `said`, and the id of the first.

        The reason says so where the two have not the same label: which one is right nobody but a person can know.
        """
        start, end = self._starts[part : part + 2]
        own = slice(*np.searchsorted(pairs.places, [start, end]))
        places, firsts = pairs.places[own], pairs.firsts[own]
        differ = (self._wide(_LABELS, places) != self._wide(_LABELS, firsts)).any(axis=1).tolist()
        return {
            row: f"{said}{' with another label' if differs else ''} of {first}"
            for row, differs, first in zip((places - start).tolist(), differ, self._named(firsts), strict=True)
        }

    def groups(self, near: Pairs) -> list[tuple[str, str]]:
        """For each record of the pairs its id, and the sha256 of the text of the first one of its group."""
        digests = [digest.hex() for digest in map(bytes, self._wide(_DIGESTS, near.firsts))]
        return list(zip(self._named(near.places), digests, strict=True))

    def _append(self, name: str, values: bytes) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(values)

    def _column(self, name: str, kind: type[Any]) -> npt.NDArray[Any]:
        return np.fromfile(self._folder / name, kind) if len(self._starts) > 1 else np.zeros(0, kind)

    def _wide(self, name: str, places: Places) -> npt.NDArray[np.uint8]:
        """Some values of a column of digests, read where they lie."""
        width = _LABEL_BYTES if name == _LABELS else _DIGEST_BYTES
        if not len(places):
            return np.zeros((0, width), np.uint8)
        return np.memmap(self._folder / name, np.uint8, "r").reshape(-1, width)[places]

    def _named(self, places: Places) -> list[str]:
        return [bytes(identity).hex() for identity in self._wide(_IDS, places)]


@lru_cache(maxsize=4096)
def _digest_of_label(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()[:_LABEL_BYTES]


def _band(number: int) -> str:
    return f"band-{number}"
