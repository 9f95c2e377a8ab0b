"""Goes in: files. Comes out: their rows, a file's only after the whole of it was read and its checksums held.

A damaged file gives a reason and no row: half a file would be a text that nobody wrote. Memory is bounded: a file whose
rows are few is held; of any other the bytes are read twice. Which way is taken follows from the format (formats.py) and
from what it lies in:

    format            as it is                  compressed                in a zip            in a tar, read before
    by_record         row by row                unpacked twice            read twice          row by row
    neither           rows held, or read twice  unpacked, then as it is   read twice          unpacked, then as it is
    seeks, isolated   a process apart first     unpacked, then as it is   unpacked, likewise  unpacked, likewise
"""

from __future__ import annotations

import hashlib
import io
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from pipeline.memo import Memo
from pipeline.sources import archives, compression
from pipeline.sources.formats import FORMATS, Format, Wrapping, wrapping
from pipeline.sources.isolation import Isolation
from pipeline.sources.locations import DOTTED, Found, OpenFile, changed
from pipeline.sources.remembered import digest_of_file
from pipeline.sources.rows import (
    BLOCK_BYTES,
    Budget,
    Options,
    Refusal,
    RefusedError,
    Row,
    drain,
    spooled,
)

SMALL_FILE_BYTES = 1 << 20
HELD_BYTES = 64 << 20
_NESTED = "is an archive within an archive; unpack the outer one"


@dataclass(frozen=True, slots=True)
class Reading:
    """A row or a refusal, the name of its file (members of an archive as "a.zip/b.txt"), and that file's sha256."""

    name: str
    row: Row | Refusal
    sha256: str
    found: os.stat_result | None = None
    """What the file looked like when it was opened."""
    format: str = ""
    """Of a file that is one document, its format."""


@dataclass
class Tally:
    """What was read of one source: its manifest's facts."""

    size_bytes: int = 0
    rows: int = 0
    listing: hashlib._Hash = field(default_factory=hashlib.sha256)
    first: bytes = b""
    heads: array[int] = field(default_factory=lambda: array("Q"))
    """The first eight bytes of each file's digest, which tell it from any other: there may be millions."""

    def add(self, name: str, digest: bytes, size_bytes: int) -> None:
        """Note one file that was read."""
        self.size_bytes += size_bytes
        self.first = self.first or digest
        self.heads.append(int.from_bytes(digest[:8]))
        self.listing.update(f"{digest.hex()}  {name}\n".encode())

    def counted(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """The same readings, counted."""
        for reading in readings:
            self.rows += 1
            yield reading

    def facts(self) -> dict[str, str | int]:
        """The counts, and the sha256: of the one file, or of the list of digests and names that `sha256sum` prints."""
        return {
            "files": self.files,
            "bytes": self.size_bytes,
            "repeated_files": self.files - len(np.unique(np.frombuffer(self.heads, np.uint64))),
            "sha256": self.first.hex() if self.files == 1 else self.listing.hexdigest(),
        }

    @property
    def files(self) -> int:
        """How many were read."""
        return len(self.heads)


def readings(
    files: Iterable[Found],
    *,
    options: Options,
    tally: Tally,
    isolation: Isolation,
    scratch: Path,
    named_format: str = "auto",
) -> Iterator[Reading]:
    """Every row of the files in order, and every reason not to have one. IntegrityError if a file changes meanwhile.

    What is packed and must be read here and there is unpacked to a file without a name in `scratch`, if it is large.
    """

    def isolated_form(found: Found) -> str:
        kind = None if found.reason else wrapping(found.name, named_format)
        return kind.format if kind and _isolated(kind) else ""

    for found in isolation.ahead(files, isolated_form, options):
        if found.reason:
            yield Reading(found.name, Refusal(found.reason), "")
            continue
        kind = wrapping(found.name, named_format)
        if kind is None:
            yield Reading(found.name, Refusal(_unread(found.name)), "")
            continue
        yield from _file(found, kind, _Reader(options, isolation, named_format, scratch), tally)


def _isolated(kind: Wrapping) -> bool:
    """Whether the file itself, as it lies on disk, goes to the process apart."""
    return bool(kind.format) and not kind.compression and FORMATS[kind.format].isolated


def _unread(name: str) -> str:
    suffix = "".join(Path(name).suffixes[-2:]) if Path(name).suffix in compression.SUFFIXES else Path(name).suffix
    return f"files named {suffix} are not read" if suffix and suffix.isascii() else "its name tells no format"


def _file(found: Found, kind: Wrapping, reader: _Reader, tally: Tally) -> Iterator[Reading]:
    digest = hashlib.sha256()
    try:
        with OpenFile(found.path) as (raw, looks):
            size, form = looks.st_size, kind.format if kind.is_document else ""
            stream: BinaryIO = raw
            if size <= SMALL_FILE_BYTES:
                content = raw.read(size + 1)
                digest.update(content)
                if len(content) != size:
                    raise changed(found.path)
                reader.raw = content
                stream = io.BytesIO(content) if not _isolated(kind) else raw
            else:
                stream = cast(BinaryIO, io.BufferedReader(cast(io.FileIO, raw), BLOCK_BYTES))
                reader.raw = stream.read(SMALL_FILE_BYTES)
                _digest(stream, digest)
            sha256 = digest.hexdigest()
            tally.add(found.name, digest.digest(), size)
            n_rows = 0
            for name, row in reader.rows(stream, found.name, kind, Budget.of(size), size):
                yield Reading(name, row, sha256, looks, form)
                n_rows += 1
            if not n_rows:
                yield Reading(found.name, Refusal("holds no record"), sha256)
            if size > SMALL_FILE_BYTES:
                again = hashlib.sha256()
                _digest(stream, again)
                if again.digest() != digest.digest():
                    raise changed(found.path)
    except RefusedError as refusal:
        sha256 = digest.hexdigest() if reader.begun or reader.raw else ""
        yield Reading(found.name, Refusal(refusal.reason, refusal.offset, "", reader.raw), sha256)


def _digest(stream: BinaryIO, digest: hashlib._Hash) -> None:
    stream.seek(os.SEEK_SET)
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
    stream.seek(os.SEEK_SET)


class _Reader:
    """Reads one file in the way that its name asks for."""

    def __init__(self, options: Options, isolation: Isolation, named_format: str, scratch: Path) -> None:
        self.options, self.isolation, self.named_format, self.scratch = options, isolation, named_format, scratch
        self.begun = False
        self.raw = b""
        """The file's bytes, or its first ones, for the quarantine."""

    def rows(
        self, stream: BinaryIO, name: str, kind: Wrapping, budget: Budget, size: int
    ) -> Iterator[tuple[str, Row | Refusal]]:
        """The rows of a seekable file, each with the name of the file or member that it stands in."""
        self.begun = True
        if kind.archive:
            yield from self._archive(stream, name, kind, budget)
            return
        form = FORMATS[kind.format]
        if not kind.compression:
            found = self._seekable(stream, kind.format, form, budget, size)
        elif form.by_record and not form.seeks:
            # Whatever a checksum at the end has to say comes before the first row is taken.
            drain(self._unpacked(stream, kind, Budget(budget.left)))
            stream.seek(0)
            found = form.read(self._plain(self._unpacked(stream, kind, budget), form), self.options, budget)
        else:
            with spooled(self._unpacked(stream, kind, budget), self.scratch) as spool:
                for row in self._seekable(spool, kind.format, form, budget, size):
                    yield name, row
                return
        for row in found:
            yield name, row

    def _unpacked(self, stream: BinaryIO, kind: Wrapping, budget: Budget) -> BinaryIO:
        return compression.decompressed(stream, kind.compression, budget) if kind.compression else stream

    def _plain(self, stream: BinaryIO, form: Format) -> BinaryIO:
        """The stream as UTF-8, for the formats that are made of lines of text."""
        if self.options.encoding == "utf-8" or not form.is_table or form.seeks:
            return stream
        return cast(BinaryIO, io.BufferedReader(_Transcoded(stream, self.options.encoding), BLOCK_BYTES))

    def _seekable(
        self, stream: BinaryIO, form_name: str, form: Format, budget: Budget, size: int
    ) -> Iterator[Row | Refusal]:
        if form.isolated:
            found = self.isolation.rows(stream, size, form_name, self.options)
            if not form.is_table:
                yield from found
                return
            stream.seek(0)
            yield from form.read(stream, self.options, budget)
            return
        if form_name == "html" and self.isolation.memo is not None:
            yield self._page(stream, form, self.isolation.memo, budget)
            return
        recoded = self.options.encoding != "utf-8" and form.is_table
        if form.by_record and not recoded:
            yield from form.read(stream, self.options, budget)
            return
        held: list[Row | Refusal] = []
        held_bytes = 0
        for row in form.read(self._plain(stream, form), self.options, Budget(budget.left)):
            if held_bytes <= HELD_BYTES:
                held.append(row)
                held_bytes += _weight(row)
        if held_bytes <= HELD_BYTES:
            yield from held
            return
        held.clear()
        stream.seek(0)
        yield from form.read(self._plain(stream, form), self.options, budget)

    def _page(self, stream: BinaryIO, form: Format, memo: Memo, budget: Budget) -> Row | Refusal:
        """The one row of a web page, whose text an earlier run may have found."""

        def text_of_page(_: list[int]) -> list[bytes]:
            [row] = form.read(stream, self.options, budget)
            assert isinstance(row, Row)
            return [str(row.values["text"]).encode("utf-8", "surrogatepass")]

        [text] = memo.values([digest_of_file(stream, "html", self.options)], text_of_page)
        stream.seek(0)
        return Row({"text": text.decode("utf-8", "surrogatepass")}, raw=stream.read())

    def _archive(
        self, stream: BinaryIO, name: str, kind: Wrapping, budget: Budget
    ) -> Iterator[tuple[str, Row | Refusal]]:
        if kind.archive == ".tar":
            # A tar has no directory: only who has read it to its end knows that it is whole.
            for member in archives.tar_members(self._unpacked(stream, kind, Budget(budget.left))):
                if member.stream:
                    drain(member.stream)
            stream.seek(0)
            members = archives.tar_members(self._unpacked(stream, kind, budget))
        else:
            members = archives.zip_members(stream, budget)
        for member in members:
            inner = f"{name}/{member.name}"
            try:
                for row in self._member(member, checked=kind.archive == ".tar", budget=budget):
                    yield inner, row
            except RefusedError as refusal:
                yield inner, Refusal(refusal.reason, refusal.offset)

    def _member(self, member: archives.Member, *, checked: bool, budget: Budget) -> Iterator[Row | Refusal]:
        if any(part.startswith(".") and part not in (".", "..") for part in member.name.split("/")):
            raise RefusedError(DOTTED)
        if member.stream is None:
            raise RefusedError(member.reason)
        kind = wrapping(member.name, self.named_format)
        if kind is None:
            raise RefusedError(_unread(member.name))
        if kind.archive:
            raise RefusedError(_NESTED)
        form = FORMATS[kind.format]
        if not kind.compression and not form.seeks:
            if not checked:  # a member of a zip can be read again
                drain(member.stream)
                member.stream.seek(0)
                yield from self._seekable(member.stream, kind.format, form, budget, 0)
                return
            if form.by_record and self.options.encoding == "utf-8":
                yield from form.read(member.stream, self.options, budget)
                return
        with spooled(self._unpacked(member.stream, kind, budget), self.scratch) as spool:
            size = spool.seek(0, os.SEEK_END)
            spool.seek(0)
            yield from self._seekable(spool, kind.format, form, budget, size)


class _Transcoded(io.RawIOBase):
    """A stream of another encoding as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        import codecs

        self._stream, self._encoding = stream, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._left and not self._ended:
            block = self._stream.read(BLOCK_BYTES)
            self._ended = not block
            try:
                self._left = self._decoder.decode(block, final=self._ended).encode()
            except UnicodeError:
                raise RefusedError(f"is not {self._encoding}, which its source declares") from None
        taken = self._left[: len(view)]
        view[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def _weight(row: Row | Refusal) -> int:
    """About the bytes that a row takes."""
    if isinstance(row, Refusal) or row.raw:
        return 500 + 3 * len(row.raw)
    return 500 + sum(len(value) * 2 if isinstance(value, str | bytes) else 200 for value in row.values.values())
