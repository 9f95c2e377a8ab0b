"""Goes in: digests of inputs, and a way to work out what is not known yet. Comes out: values, remembered for next time.

A memo spares work and decides nothing: a value is a pure function of its input's digest and of the memo's key, so a
stage writes the same bytes with it, without it, or with half of it. It lies in data/scratch, which git and DVC ignore,
and may be deleted at any time. Segments are artefacts, so one that is torn or altered is found by its digest and left
out. Values that a run did not ask for are dropped when it ends: the memo grows no larger than the corpus, and nothing
that was erased stays in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from pipeline import manifest
from pipeline.digests import digest_of
from pipeline.errors import HomegrownError

FOLDER = Path("data/scratch/memo")
DIGEST_BYTES = 32
# Each run adds one segment for what is new; this many are looked through quickly, then they become one.
_SEGMENTS = 8
_AT_ONCE = 1 << 16
_DIGESTS, _VALUES = "digests.bin", "values.bin"
_ENDS, _HEADS, _ROWS = "ends.npy", "heads.npy", "rows.npy"

Compute = Callable[[list[int]], Sequence[bytes]]
Bytes = npt.NDArray[np.uint8]


class _Segment:
    """Digests and values as they came, and an index of the digests; what was asked for is marked as used.

    All of it stays on the disk, to be read where it is wanted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: Bytes = _mapped(folder / _DIGESTS).reshape(-1, DIGEST_BYTES)
        self._ends: npt.NDArray[np.int64] = np.load(folder / _ENDS, mmap_mode="r")
        self._heads: npt.NDArray[np.uint64] = np.load(folder / _HEADS, mmap_mode="r")
        self._rows: npt.NDArray[np.int64] = np.load(folder / _ROWS, mmap_mode="r")
        self.used = np.zeros(len(self._rows), bool)

    def find(self, wanted: Bytes) -> npt.NDArray[np.int64]:
        """Where in the index each digest is, -1 where it is not here."""
        if not len(self._rows):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self._heads, _heads(wanted)), len(self._rows) - 1)
        # The first eight bytes lead to the place; all thirty-two must agree.
        return np.where((self._digests[self._rows[at]] == wanted).all(axis=1), at, -1)

    def digests(self, at: npt.NDArray[np.int64]) -> Iterator[bytes]:
        """The digests there, one by one."""
        return (self._digests[row].tobytes() for row in self._rows[at].tolist())

    def values(self, at: npt.NDArray[np.int64]) -> Iterator[bytes]:
        """The values there, one by one, since a value may be large."""
        rows = self._rows[at]
        starts = np.where(rows > 0, self._ends[rows - 1], 0)
        lengths = self._ends[rows] - starts
        with (self.folder / _VALUES).open("rb") as file:  # mapped, all that was ever read would count as memory in use
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                yield os.pread(file.fileno(), length, start)


class Known:
    """What earlier runs worked out under one key, to be read."""

    def __init__(self, segments: Sequence[Path]) -> None:
        """Open a memo's segments again, in another process; whoever opened the memo has checked them."""
        self.segments = [_Segment(folder) for folder in segments]

    def known(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """The value that is remembered for each digest, in order, or None."""
        found: list[bytes | None] = [None] * len(digests)
        for segment, at in self._places(digests):
            [known] = np.nonzero(at >= 0)
            for position, value in zip(known.tolist(), segment.values(at[known]), strict=True):
                found[position] = value
        return found

    def _places(self, digests: Sequence[bytes]) -> Iterator[tuple[_Segment, npt.NDArray[np.int64]]]:
        """Each segment, and where in it each digest lies; that is marked as used."""
        if not digests:
            return
        wanted = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        for segment in self.segments:
            at = segment.find(wanted)
            segment.used[at[at >= 0]] = True
            yield segment, at


class Memo(Known):
    """What earlier runs worked out under one key, open for one run. Made by `open_memo`."""

    def __init__(self, segments: Sequence[Path], values: BinaryIO, digests: BinaryIO) -> None:
        """`values` and `digests` are files of the new segment, for what is added, one after the other."""
        super().__init__(segments)
        self._file, self._digests = values, digests
        self._lengths = array("q")
        self._forgotten: set[bytes] = set()
        self._blanked: set[int] = set()

    def keep(self, digests: Sequence[bytes]) -> list[bool]:
        """Which of them are known, without their values; those are kept for the next run."""
        found = np.zeros(len(digests), bool)
        for _, at in self._places(digests):
            found |= at >= 0
        return list(map(bool, found))

    def values(self, digests: Sequence[bytes], compute: Compute) -> list[bytes]:
        """A value for each digest, in order; `compute` gets the positions of those that are not known."""
        found = self.known(digests)
        missing = [position for position, value in enumerate(found) if value is None]
        new = compute(missing) if missing else []
        if len(new) != len(missing):
            raise AssertionError(f"memo: {len(missing)} values asked for, {len(new)} worked out")
        for position, value in zip(missing, new, strict=True):
            self.add(digests[position], value)
            found[position] = value
        return [value for value in found if value is not None]

    @property
    def folders(self) -> list[Path]:
        """Where the segments are, for `Known` in another process."""
        return [segment.folder.resolve() for segment in self.segments]

    @property
    def added(self) -> int:
        """Values that are new, or were moved from older segments."""
        return len(self._lengths)

    def add(self, digest: bytes, value: bytes) -> None:
        """Keep one value for the next run."""
        self._file.write(value)
        self._digests.write(digest)
        self._lengths.append(len(value))

    def forget(self, value: bytes) -> None:
        """Keep this value no longer, under whatever digest it stands."""
        self._forgotten.add(value)

    def drop_forgotten(self) -> None:
        """Unmark in every segment, and blank in the new one, what must not be kept."""
        if not self._forgotten:
            return
        for segment in self.segments:
            used = np.flatnonzero(segment.used)
            segment.used[used] = [value not in self._forgotten for value in segment.values(used)]
        start = 0
        for position, length in enumerate(self._lengths):
            self._file.seek(start)
            if self._file.read(length) in self._forgotten:
                self._file.seek(start)
                self._file.write(bytes(length))
                self._blanked.add(position)
            start += length
        self._file.seek(start)

    def write_index(self, folder: Path) -> None:
        """Write where each value ends, and the heads, sorted, of the digests that were not forgotten, each once."""
        np.save(folder / _ENDS, np.cumsum(np.asarray(self._lengths, np.int64)))
        self._digests.flush()
        heads = np.empty(self.added, np.uint64)
        with (folder / _DIGESTS).open("rb") as file:
            for first in range(0, self.added, _AT_ONCE):
                some = np.frombuffer(file.read(_AT_ONCE * DIGEST_BYTES), np.uint8).reshape(-1, DIGEST_BYTES)
                heads[first : first + len(some)] = _heads(some)
        digests = _mapped(folder / _DIGESTS, "r+").reshape(-1, DIGEST_BYTES)
        rows = np.argsort(heads, kind="stable")
        if self._blanked:
            digests[list(self._blanked)] = 0
            rows = rows[~np.isin(rows, list(self._blanked))]
        heads = heads[rows]
        as_next = heads[1:] == heads[:-1]
        shared = np.append(as_next, False) | np.append(False, as_next) if len(rows) else as_next
        met: set[bytes] = set()
        before = np.zeros(len(rows), bool)
        for at in np.flatnonzero(shared)[::-1].tolist():  # of equal digests the last one counts
            digest = digests[rows[at]].tobytes()
            before[at] = digest in met
            met.add(digest)
        np.save(folder / _HEADS, heads[~before])
        np.save(folder / _ROWS, rows[~before])


def code_digest(*modules: ModuleType, libraries: Iterable[str] = ()) -> str:
    """One digest of all code that works values out, for a key: edited code is never believed, nor another version's.

    `libraries` are the packages that the modules call on; one that is not installed counts as such.
    """
    code = {m.__name__: hashlib.sha256(Path(str(m.__file__)).read_bytes()).hexdigest() for m in modules}
    versions = {name: [d.version for d in distributions(name=name)] for name in (*libraries, "numpy")}
    return digest_of({"python": sys.version, "code": code, "libraries": versions})


@contextmanager
def open_memo(name: str, key: Any, folder: Path = FOLDER) -> Iterator[Memo]:
    """The memo `name` under `key`, plain values that name everything besides the input that decides a value.

    What is new is kept if the block ends well. Memos of the same name under other keys are removed.
    """
    place = place_of(name, key, folder)
    segments = [path for path in sorted(place.glob("segment-*")) if _is_whole(path)]
    number = 1 + max((int(path.name.removeprefix("segment-")) for path in segments), default=-1)
    with (
        manifest.commit(place / f"segment-{number:06d}", "memo", params={"name": name}) as draft,
        (draft.path / _VALUES).open("w+b") as values,
        (draft.path / _DIGESTS).open("wb") as digests,
    ):
        memo = Memo(segments, values, digests)
        yield memo
        memo.drop_forgotten()
        everything = len(segments) >= _SEGMENTS
        replaced = [segment for segment in memo.segments if everything or not segment.used.all()]
        for segment in replaced:
            used = np.flatnonzero(segment.used)
            for digest, value in zip(segment.digests(used), segment.values(used), strict=True):
                memo.add(digest, value)
        memo.write_index(draft.path)
    # After a kill here a value stands in two segments, which is harmless, and what nobody asked for goes next time.
    for segment in replaced:
        shutil.rmtree(segment.folder, ignore_errors=True)
    if not memo.added:
        shutil.rmtree(place / f"segment-{number:06d}", ignore_errors=True)


def place_of(name: str, key: Any, folder: Path = FOLDER) -> Path:
    """The folder of what is remembered as `name` under `key`; those of its other keys are removed, since the results
    that they served are not wanted any more."""
    place = folder / name / digest_of(key)[:32]
    for other in place.parent.glob("*") if place.parent.is_dir() else ():
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
    return place


def _is_whole(path: Path) -> bool:
    """Whether a segment is what its digests promise; if not, nothing is left of it."""
    try:
        manifest.verify(path)
        _Segment(path)
    except (HomegrownError, OSError, ValueError, IndexError):
        shutil.rmtree(path, ignore_errors=True)
        return False
    return True


def _mapped(path: Path, mode: Literal["r", "r+"] = "r") -> Bytes:
    """A file's bytes, read where they are wanted."""
    return np.memmap(path, np.uint8, mode) if path.stat().st_size else np.zeros(0, np.uint8)


def _heads(digests: Bytes) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each digest as a number."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)
