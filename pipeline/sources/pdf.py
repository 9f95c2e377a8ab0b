"""Goes in: a PDF. Comes out: the text of its pages, with an empty line between two; scanned pages have none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.sources.rows import RECORD_LIMIT_BYTES, Budget, Options, RefusedError, Row


def read(stream: BinaryIO, _options: Options, _budget: Budget) -> Iterator[Row]:
    """The one text of the document; RefusedError if it is damaged, locked or has no text in it."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings may quote the document
    pages: list[str] = []
    size = 0
    try:
        reader = PdfReader(stream, strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise RefusedError("is locked by a password; unlock it and save it anew")
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            size += len(pages[-1])
            if size > RECORD_LIMIT_BYTES:
                raise RefusedError(f"too large: more than {RECORD_LIMIT_BYTES:,} characters in one document; split it")
    except RefusedError:
        raise
    except Exception as error:  # pypdf lets a damaged file's KeyErrors, TypeErrors and the like through
        raise RefusedError(f"is damaged, or no PDF ({type(error).__name__})") from error
    text = "\n\n".join(page for page in pages if page)
    if not text:
        raise RefusedError("has no text in it: its pages are pictures; recognise them first (OCR)")
    yield Row({"text": text})
