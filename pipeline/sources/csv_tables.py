"""Goes in: a table with commas (.csv) or tabs (.tsv). Comes out: a row per record, by the names of the first line.

After RFC 4180: a quoted field may hold separators, quotes and line ends. A record that does not parse costs its first
line only; reading goes on with the next, so that one lost quote does not swallow the rest. Between tabs a quote is a
character like any other (IANA's text/tab-separated-values), unless the source's format is named tsv-quoted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.sources.rows import RECORD_LIMIT_BYTES, Budget, Options, Refusal, RefusedError, Row, lines

_REREAD_LIMIT_BYTES = 64 << 20  # what may be read again after broken quotes; beyond it a hostile file takes for ever
_QUOTED_LINES = 10_000  # a quoted field of more lines is a lost quote
_BROKEN = "has quotes that do not match"

csv.field_size_limit(RECORD_LIMIT_BYTES)


def read_commas(stream: BinaryIO, options: Options, _budget: Budget) -> Iterator[Row | Refusal]:
    """The records of a .csv."""
    return _read(stream, options, options.delimiter)


def read_tabs(stream: BinaryIO, options: Options, _budget: Budget) -> Iterator[Row | Refusal]:
    """The records of a .tsv as its media type has it: a line each, tabs between, and a quote is a character."""
    return _read(stream, options, "\t", quoted=False)


def read_quoted_tabs(stream: BinaryIO, options: Options, _budget: Budget) -> Iterator[Row | Refusal]:
    """The records of a table with tabs and with quotes, as spreadsheets write it."""
    return _read(stream, options, "\t")


class _Lines:
    """The lines of a table, each with its number and first byte; lines may be given back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = lines(stream)
        self._number = 0
        self.returned: list[tuple[int, int, bytes, int]] = []
        self.taken: list[tuple[int, int, bytes, int]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.returned:
            line = self.returned.pop()
        else:
            offset, content, length = next(self._lines)
            self._number += 1
            if offset == 0:
                content = content.removeprefix(b"\xef\xbb\xbf")
            line = (self._number, offset, content, length)
        self.taken.append(line)
        if len(self.taken) > _QUOTED_LINES:
            raise csv.Error(_BROKEN)
        # A line beyond the limit is only counted; surrogateescape keeps wrong bytes apart until the record is known.
        content = b"" if line[3] > RECORD_LIMIT_BYTES else line[2]
        return content.decode("utf-8", "surrogateescape") + "\n"


def _read(stream: BinaryIO, options: Options, delimiter: str, quoted: bool = True) -> Iterator[Row | Refusal]:
    source = _Lines(stream)
    names: list[str] | None = None
    reread_bytes = 0
    while True:
        source.taken.clear()
        reason, values = "", []
        try:
            if quoted:
                values = next(csv.reader(source, delimiter=delimiter, strict=True))
            else:
                line = next(source).removesuffix("\n").removesuffix("\r")
                values = line.split(delimiter) if line else []
        except StopIteration:
            return
        except csv.Error:
            reason = _BROKEN
        if not source.taken:
            return
        number, offset, first, _ = source.taken[0]
        place = f":{number}"
        if not reason and len(values) == 0:
            continue  # an empty line
        if any(length > RECORD_LIMIT_BYTES for *_, length in source.taken):
            reason = f"too long: more than {RECORD_LIMIT_BYTES:,} bytes in a line"
        elif not reason and any(not _is_text(value) for value in values):
            reason = "is not UTF-8"
        elif not reason and names is not None and len(values) != len(names):
            reason = f"has {len(values):,} columns, but the first line has {len(names):,}"
        if names is None and not options.numbered:
            named = [value for value in values if value]  # spreadsheets write empty columns without a name
            if b"\r" in first.removesuffix(b"\r"):
                raise RefusedError("has lines that end in a carriage return alone; write them with line feeds", offset)
            if reason or len(set(named)) < len(named):
                raise RefusedError(f"has no header: its first line {reason or 'names a column twice'}", offset)
            names = values
            continue
        if names is None:
            names = [str(column) for column in range(len(values))]
        raw = b"\n".join(content for *_, content, _ in source.taken)
        if not reason:
            yield Row(dict(zip(names, values, strict=True)), offset, place, raw)
            continue
        yield Refusal(reason, offset, place, first if len(source.taken) > 1 else raw)
        again = source.taken[1:]
        reread_bytes += sum(len(content) for *_, content, _ in again)
        if again and reread_bytes > _REREAD_LIMIT_BYTES:
            raise RefusedError("has more broken quotes than can be worked around; write the table anew")
        source.returned += reversed(again)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
