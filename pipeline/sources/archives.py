"""Goes in: a .zip, or a tar as a stream. Comes out: its members in order, each a name and a stream; nothing on disk.

A member's name is a label and never a path, so "../../etc/passwd" leads nowhere. Links, devices and folders have no
text: the first two are turned away by name.
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Self, cast

from pipeline.sources.rows import Budget, RefusedError, not_of_the_machine

NOT_A_FILE = "is a link or a device in its archive, not a file"
_HEADER_ERRORS = tarfile.HeaderError
_DAMAGED_TAR = "is damaged: the archive has a broken header; make the file again"
_DAMAGED_ZIP = "is damaged: the archive's directory cannot be read; make the file again"


@dataclass(frozen=True)
class Member:
    """One member of an archive: a stream to read before the next is asked for, or the reason not to."""

    name: str
    stream: BinaryIO | None
    reason: str = ""


class _StrictMember(tarfile.TarInfo):
    """tarfile takes a broken header for the end of the archive, and the members after it are gone without a word."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _HEADER_ERRORS as error:
            if type(error).__name__ == "EOFHeaderError":  # a block of zeros: the archive's proper end
                raise
            raise RefusedError(_DAMAGED_TAR) from error


def tar_members(stream: BinaryIO) -> Iterator[Member]:
    """The members of a tar, which is read to its end; RefusedError if that is not where and how it should be."""
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictMember, errorlevel=2) as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    yield Member(_shown(member.name), None, NOT_A_FILE)
                    continue
                content = archive.extractfile(member)
                yield Member(_shown(member.name), cast(BinaryIO, _TarStream(cast(BinaryIO, content))))
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header of a million members
            rest = archive.fileobj
            while block := rest.read(tarfile.RECORDSIZE) if rest else b"":
                if block.strip(b"\0"):
                    raise RefusedError("is damaged: the archive goes on after its end; make the file again")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise RefusedError(_DAMAGED_TAR) from error


class _TarStream:
    """A member's content; the library's complaints about a torn archive become ours."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except (tarfile.TarError, EOFError) as error:
            raise RefusedError("is cut off: the archive ends within a member; make the file again") from error

    def readline(self, size: int = -1) -> bytes:
        try:
            return self._stream.readline(size)
        except (tarfile.TarError, EOFError) as error:
            raise RefusedError("is cut off: the archive ends within a member; make the file again") from error


def zip_members(file: BinaryIO, budget: Budget) -> Iterator[Member]:
    """The members of a zip, as its directory lists them; RefusedError if that is damaged.

    A damaged member raises RefusedError from its own stream: each has a checksum, so the others are whole.
    """
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], file))
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError, OverflowError) as error:
        not_of_the_machine(error)
        raise RefusedError(_DAMAGED_ZIP) from error
    with archive:
        members = archive.infolist()
        empty_bytes = 22 + len(archive.comment)  # what a zip of nothing takes
        if _recorded_members(file) not in (0xFFFF, len(members) & 0xFFFF):
            raise RefusedError(_DAMAGED_ZIP)
        if not members and file.seek(0, 2) > empty_bytes:
            raise RefusedError(_DAMAGED_ZIP)
        for member in members:
            name = _shown(member.filename)
            if name.endswith("/"):
                continue
            unix_kind = member.external_attr >> 28
            if unix_kind not in (0, 0o10):  # made on Unix, and not of a regular file
                yield Member(name, None, NOT_A_FILE)
            elif member.flag_bits & 1:
                yield Member(name, None, "is encrypted in its archive; unpack it yourself")
            else:
                yield Member(name, cast(BinaryIO, _ZipStream(archive, member, budget)))


class _ZipStream:
    """A member's content, opened when first read; the library's complaints become ours, and bombs are stopped.

    It may be read again from its beginning.
    """

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> None:
        self._archive, self._member, self._budget = archive, member, budget
        self._stream: IO[bytes] | None = None
        self._spent = 0

    def read(self, size: int = -1) -> bytes:
        return self._taken(lambda stream: stream.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._taken(lambda stream: stream.readline(size))

    def seek(self, offset: int) -> int:
        """Back to the beginning, as if nothing had been read."""
        assert offset == 0
        self._stream = None
        self._budget.left += self._spent
        self._spent = 0
        return 0

    def _taken(self, take: Callable[[IO[bytes]], bytes]) -> bytes:
        try:
            if self._stream is None:
                self._stream = self._archive.open(self._member)
            content = take(self._stream)
        except NotImplementedError as error:
            raise RefusedError("is packed by a method that is not read; unpack it yourself") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
            not_of_the_machine(error)
            raise RefusedError("is damaged: its checksum in the archive differs; make the archive again") from error
        except Exception as error:
            if type(error).__name__ == "LZMAError":
                raise RefusedError("is damaged: its data in the archive do not decompress") from error
            raise
        self._spent += len(content)
        self._budget.spend(len(content))
        return content


def _recorded_members(file: BinaryIO) -> int:
    """The number of members that the end of a zip states: a damaged directory may list fewer and seem whole."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[end + 10 : end + 12], "little") if end >= 0 else -1


def _shown(name: str) -> str:
    """A member's name as UTF-8 can hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
