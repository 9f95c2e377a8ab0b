"""What a format's reader gives: rows in order, each a record to be or a reason; or it refuses the file as a whole.

Goes in: nothing; these are the words that readers and their callers share. A reason never quotes the record.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

RECORD_LIMIT_BYTES = 16 << 20
"""The longest record: a text, a line, a message. What is longer is no text that a person wrote in one piece."""
BLOCK_BYTES = 1 << 20
IN_MEMORY_BYTES = 16 << 20
# Text shrinks three- to tenfold and repetitive logs perhaps a hundredfold; deflate's own limit is 1032.
EXPANSION_RATIO = 250
EXPANSION_FREE_BYTES = 64 << 20
EXPANSION_LIMIT_BYTES = 256 << 30


OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENOSPC)


def not_of_the_machine(error: Exception) -> None:
    """Raise the error again if it is no fault of the file's: the run stops, or the corpus would depend on the hour."""
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        raise error


class RefusedError(Exception):
    """A file cannot be read to its end as what it says it is: none of its records is taken."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Row:
    """One record as its file has it: values by key, its first byte, and where in the file it stands (":3", or "")."""

    values: Mapping[str, object]
    offset: int = 0
    place: str = ""
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record of a file that is no record; its neighbours may be."""

    reason: str
    offset: int = 0
    place: str = ""
    raw: bytes = field(default=b"", repr=False)


@dataclass
class Budget:
    """How many bytes may still come out of one compressed file; a decompression bomb runs into its end."""

    left: int

    @classmethod
    def of(cls, compressed_bytes: int) -> Budget:
        """The budget of a file of that size."""
        return cls(min(EXPANSION_LIMIT_BYTES, max(EXPANSION_FREE_BYTES, EXPANSION_RATIO * compressed_bytes)))

    def spend(self, count: int) -> None:
        """Take `count` bytes from the budget; RefusedError at its end."""
        self.left -= count
        if self.left < 0:
            raise RefusedError(
                f"expands more than {EXPANSION_RATIO}-fold, like a decompression bomb; unpack it yourself"
            )


@dataclass(frozen=True)
class Options:
    """What a reader may be told about the files of one source."""

    encoding: str = "utf-8"
    """Of text in any form; UTF-8 unless the user says otherwise."""
    columns: frozenset[str] | None = None
    """The only columns that matter, for formats that store each apart; None for all of them."""
    numbered: bool = False
    """A table has no header: its columns are called 0, 1, 2…"""
    delimiter: str = ","
    """What stands between the columns of a .csv."""


Reader = Callable[[BinaryIO, Options, Budget], Iterator[Row | Refusal]]


def lines(stream: BinaryIO, limit_bytes: int = RECORD_LIMIT_BYTES) -> Iterator[tuple[int, bytes, int]]:
    """(offset, content, length in bytes) of each line without its "\\n"; a line beyond the limit comes cut off there.

    Lines end at "\\n" only, so that a form feed or U+2028 stays within its record; memory is bounded by the limit.
    """
    offset = 0
    while part := stream.readline(limit_bytes + 1):
        line, length = part, len(part)
        while not part.endswith(b"\n") and length > limit_bytes and (part := stream.readline(BLOCK_BYTES)):
            length += len(part)
        ended = part.endswith(b"\n")
        yield offset, line[:limit_bytes] if length > limit_bytes + 1 else line.removesuffix(b"\n"), length - ended
        offset += length


def whole(stream: BinaryIO, limit_bytes: int = RECORD_LIMIT_BYTES) -> bytes:
    """All bytes of a stream that is one record; RefusedError beyond the limit."""
    content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise RefusedError(f"too large: more than {limit_bytes:,} bytes in one record; split it")
    return content


def spooled(stream: BinaryIO, folder: Path) -> BinaryIO:
    """A seekable copy of a stream: in memory while it is small, else in a file of `folder` that has no name."""
    # No name is derived from the input, so no member of an archive can lead the file anywhere. The system's own folder
    # for such files is often memory, or small.
    folder.mkdir(parents=True, exist_ok=True)
    spool = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115 (the caller holds it)
    while block := stream.read(BLOCK_BYTES):
        spool.write(block)
    spool.seek(os.SEEK_SET)
    return spool  # type: ignore[return-value]  # it has every method of BinaryIO


def drain(stream: BinaryIO) -> None:
    """Read to the end for the sake of its checksums."""
    while stream.read(BLOCK_BYTES):
        pass
