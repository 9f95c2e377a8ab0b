"""Goes in: which documents nearly repeat one another. Comes out: a table that keeps each such group in one split.

A group goes where its first document goes, so it is named by the digest of that document's text, which is what the
split of any document is decided by. Documents that are like no other do not stand here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import table_of

GROUPS_FILE = "groups.parquet"
_SCHEMA = pa.schema([("id", pa.string()), ("group", pa.string())])


def write_groups(members: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write (id of a document, text digest of its group's first document)."""
    ids, groups = [pair[0] for pair in members], [pair[1] for pair in members]
    pq.write_table(table_of([ids, groups], _SCHEMA), folder / GROUPS_FILE, write_page_checksum=True)


def read_groups(folder: Path) -> dict[str, bytes]:
    """By a document's id the digest that decides for its group; none where near-duplicates are not kept together."""
    if not (folder / GROUPS_FILE).exists():
        return {}
    table = pq.ParquetFile(folder / GROUPS_FILE, page_checksum_verification=True).read()
    return dict(zip(table["id"].to_pylist(), map(bytes.fromhex, table["group"].to_pylist()), strict=True))


def digest_of(text: str) -> str:
    """The digest that decides a document's split."""
    return hashlib.sha256(text.encode()).hexdigest()
