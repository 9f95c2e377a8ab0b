"""Goes in: a file of plain text, Markdown or reStructuredText. Comes out: its text, or the byte at which it is none.

A file is UTF-8, or of the encoding that the user declares, or it is refused; nothing is guessed.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.sources.rows import Budget, Options, RefusedError, Row, whole


def read(stream: BinaryIO, options: Options, _budget: Budget) -> Iterator[Row]:
    """The one text of the file."""
    content = whole(stream)
    yield Row({"text": decoded(content, options.encoding)}, raw=content)


def decoded(content: bytes, encoding: str) -> str:
    """The text of some bytes without their byte order mark; RefusedError at the first byte that is not `encoding`."""
    if encoding != "utf-8":
        try:
            return content.decode(encoding).removeprefix("\ufeff")
        except UnicodeError as error:
            raise RefusedError(f"is not {encoding}, which its source declares", getattr(error, "start", 0)) from None
    marked = content.startswith(codecs.BOM_UTF8)
    try:
        return (content[3:] if marked else content).decode()
    except UnicodeDecodeError as error:
        offset = error.start + (3 if marked else 0)
        raise RefusedError(
            f"is not UTF-8: byte {offset}, {error.reason}; convert it (iconv does), or declare its encoding",
            offset,
        ) from None
