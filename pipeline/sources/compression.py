"""Goes in: a stream of gzip, Zstandard, bzip2 or xz. Comes out: its content, with every checksum there is verified.

The libraries' own file objects stop quietly at a damaged second stream (bz2, xz) or a torn frame (zstandard), so the
loop is ours: whatever follows a stream must be another one, or the padding that the format allows.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from pipeline.sources.rows import BLOCK_BYTES, Budget, RefusedError, not_of_the_machine

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# xz -9 needs 65 MiB to decompress; a header that asks for more than this is an attack or damage.
XZ_MEMORY_BYTES = 256 << 20


class _Decompressor(Protocol):
    """What bz2, lzma and zstd agree on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor in the form of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)  # 31: a gzip header and trailer, which holds CRC and length

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.eof and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max(max_length, 0))


def _zstd() -> _Decompressor:
    from backports.zstd import ZstdDecompressor

    return cast(_Decompressor, ZstdDecompressor())


SUFFIXES: dict[str, Callable[[], _Decompressor]] = {
    ".gz": lambda: cast(_Decompressor, _Gzip()),
    ".zst": _zstd,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES),
}
_PADDED = (".gz", ".xz")  # zeros may follow the last stream, as tapes and `xz` leave them


def decompressed(stream: BinaryIO, suffix: str, budget: Budget) -> BinaryIO:
    """The content of a compressed stream, read as it is asked for; RefusedError when it is damaged, torn or a bomb."""
    raw = _Decompressed(stream, suffix, budget)
    return cast(BinaryIO, io.BufferedReader(raw, BLOCK_BYTES))


class _Decompressed(io.RawIOBase):
    def __init__(self, stream: BinaryIO, suffix: str, budget: Budget) -> None:
        self._stream, self._suffix, self._budget = stream, suffix, budget
        self._decompressor: _Decompressor | None = SUFFIXES[suffix]()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self._next(len(view))
        view[: len(content)] = content
        self._budget.spend(len(content))
        return len(content)

    def _next(self, size: int) -> bytes:
        while self._decompressor:
            block = b""
            if self._decompressor.eof:
                block = self._decompressor.unused_data or self._stream.read(BLOCK_BYTES)
                if self._suffix in _PADDED:
                    while block and not block.strip(b"\0"):
                        block = self._stream.read(BLOCK_BYTES)
                    block = block.lstrip(b"\0")
                if not block:
                    self._decompressor = None
                    break
                self._decompressor = SUFFIXES[self._suffix]()
            elif self._decompressor.needs_input:
                block = self._stream.read(BLOCK_BYTES)
                if not block:
                    raise RefusedError(f"is cut off: the {self._suffix} data have no end; make the file again")
            try:
                content = self._decompressor.decompress(block, size)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
                not_of_the_machine(error)
                raise self._damaged() from error
            except Exception as error:  # ZstdError is nobody's child, and the import of its module is lazy
                if type(error).__name__ == "ZstdError":
                    raise self._damaged() from error
                raise
            if content:
                return content
        return b""

    def _damaged(self) -> RefusedError:
        return RefusedError(f"is damaged: the {self._suffix} data do not decompress; make the file again")
