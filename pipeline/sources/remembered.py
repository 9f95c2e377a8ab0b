"""Goes in: a file that is slow to read. Comes out: its text, or that it reads to its end, as an earlier run found.

A value is the text of a PDF, a .docx or a web page, or nothing for a table that was tried in a process apart; its
digest is that of the file's bytes, the format and what the user said of the encoding and the columns. A refusal is
never remembered: a reader that took too long today may have met a busy machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import BinaryIO

from pipeline.import_closure import code_of
from pipeline.memo import Memo, code_digest, open_memo
from pipeline.sources.rows import BLOCK_BYTES, Options

LIBRARIES = ("pypdf", "python-docx", "lxml", "resiliparse", "pyarrow")


def digest_of_file(stream: BinaryIO, form: str, options: Options) -> bytes:
    """The digest of all that decides what is read from a seekable stream, which is at its beginning afterwards."""
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
    stream.seek(0)
    return digest_of_text(digest.digest(), form, options)


def digest_of_text(sha256: bytes, form: str, options: Options) -> bytes:
    """The same of a file whose bytes have this sha256."""
    return hashlib.sha256(_beginning(form, options) + sha256).digest()


@lru_cache(maxsize=16)
def _beginning(form: str, options: Options) -> bytes:
    said = asdict(options) | {"columns": sorted(options.columns) if options.columns is not None else None}
    return json.dumps([form, said], sort_keys=True).encode() + b"\0"


@contextmanager
def remembered_texts() -> Iterator[Memo]:
    """The memory of the runs before; valid while the readers and their libraries are what they were."""
    code = [code_of("pipeline.sources.formats"), code_of("pipeline.sources.isolation")]
    with open_memo("texts", {"code": code, "libraries": code_digest(libraries=LIBRARIES)}) as memo:
        yield memo
