"""Goes in: token ids, document by document. Comes out: Parquet shards that are read as memory, without a copy.

Parquet has no 16-bit type of its own (uint16 is stored as INT32, twice the size), so a row is one block of 65,536
tokens as fixed-size binary. Uncompressed and PLAIN, the single page of a shard's single row group *is* the tokens: the
footer says where it starts, and numpy maps it. Any Parquet reader can read the same file.

A split is `SPLIT-00000.parquet`, … and `SPLIT.documents.parquet`, which says where each document lies and of which
source it is. A shard's last block is filled up with zeros; how many tokens count stands in the artefact's manifest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import table_of
from pipeline.errors import IntegrityError

BLOCK_TOKENS = 65_536
# pyarrow starts a new page when this many bytes are reached; a shard must stay below it to be one page.
_ONE_PAGE_BYTES = 1 << 30
MAX_SHARD_TOKENS = _ONE_PAGE_BYTES // 8
_INDEX_ROWS_PER_GROUP = 65_536
_INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("first_token", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
    ]
)

TokenArray = npt.NDArray[Any]  # uint16 or uint32, see token_type


def token_type(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The smallest type that holds every id."""
    return np.dtype(np.uint16) if vocab_size <= 1 << 16 else np.dtype(np.uint32)


def write_shards(path: Path, tokens: TokenArray, n_tokens: int | None = None) -> list[tuple[Path, int]]:
    """Write tokens of the type of `token_type` as a shard, and say how many there are; as several where one cannot hold
    them, named after `path` in their order; as none where there are none.

    Tokens that are filled up to whole blocks already, `n_tokens` of which count, are not copied.
    """
    n_tokens = len(tokens) if n_tokens is None else n_tokens
    if missing := -len(tokens) % BLOCK_TOKENS:
        tokens = np.concatenate([tokens, np.zeros(missing, tokens.dtype)])
    written = []
    for number, first in enumerate(range(0, n_tokens, MAX_SHARD_TOKENS)):
        place = shard_path(path, number)
        _write_shard(place, tokens[first : first + MAX_SHARD_TOKENS])
        written.append((place, min(MAX_SHARD_TOKENS, n_tokens - first)))
    return written


def shard_path(stem: Path, number: int) -> Path:
    """Where `write_shards` writes the shard of this number, before it gets its place in a split."""
    return stem.with_name(f"{stem.name}-{number}")


def _write_shard(path: Path, tokens: TokenArray) -> None:
    blocks = len(tokens) // BLOCK_TOKENS
    width = BLOCK_TOKENS * tokens.itemsize
    rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), blocks, [None, pa.py_buffer(tokens)])
    # In memory first and then at one go: after a write of the four bytes that a Parquet file begins with, Linux caches
    # its first two megabytes in small pages, which are slower to read from.
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"tokens": rows}),
        sink,
        compression="NONE",
        use_dictionary=False,
        column_encoding={"tokens": "PLAIN"},
        data_page_size=_ONE_PAGE_BYTES,
        row_group_size=blocks,
        write_page_checksum=True,
        write_statistics=False,
    )
    path.write_bytes(sink.getvalue())


class SplitWriter:
    """Puts the shards of one split into their places in `folder`, and writes its index. Call `close` at the end."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._index_file = pq.ParquetWriter(
            folder / f"{split}.documents.parquet", _INDEX_SCHEMA, write_page_checksum=True
        )
        self._index: list[pa.Table] = []
        self._index_rows = 0
        self.shards: list[int] = []
        """The tokens of each shard."""
        self.n_tokens = 0

    def add(
        self,
        shards: Sequence[tuple[Path, int]],
        document_ids: Sequence[str],
        sources: Sequence[str],
        lengths: npt.NDArray[np.int64],
    ) -> list[Path]:
        """Take the next shards, as `write_shards` left them anywhere on the folder's disk, and their documents; where
        the shards are now."""
        if (written := sum(n_tokens for _, n_tokens in shards)) != lengths.sum():
            raise ValueError(f"{written:,} tokens in the shards, {lengths.sum():,} in the documents")
        places = []
        for path, n_tokens in shards:
            places.append(path.rename(self._folder / f"{self._split}-{len(self.shards):05d}.parquet"))
            self.shards.append(n_tokens)
        first = self.n_tokens + np.cumsum(lengths) - lengths
        self._index.append(table_of([document_ids, sources, first, lengths], _INDEX_SCHEMA))
        self._index_rows += len(document_ids)
        self.n_tokens += written
        self._write_index(_INDEX_ROWS_PER_GROUP)
        return places

    def close(self) -> None:
        """Write what is left of the index."""
        self._write_index(1)
        self._index_file.close()

    def _write_index(self, at_least: int) -> None:
        """Write whole row groups of the index; its bytes depend on the documents, not on how they came."""
        if self._index_rows < at_least:
            return
        rows = pa.concat_tables(self._index).combine_chunks()
        while len(rows) >= at_least:
            self._index_file.write_table(rows[:_INDEX_ROWS_PER_GROUP])
            rows = rows[_INDEX_ROWS_PER_GROUP:]
        self._index, self._index_rows = [rows], len(rows)


def map_shard(path: Path, vocab_size: int) -> TokenArray:
    """One shard's tokens as a read-only view of the file; IntegrityError if its layout is not the one written here."""
    kind = token_type(vocab_size)
    try:
        metadata = pq.read_metadata(path)
        column = metadata.row_group(0).column(0)
        wanted = metadata.num_rows * BLOCK_TOKENS * kind.itemsize
        plain = column.compression == "UNCOMPRESSED" and not column.has_dictionary_page
        plain = plain and column.total_uncompressed_size == column.total_compressed_size
        first_page = column.data_page_offset == len(b"PAR1")
        if metadata.num_row_groups != 1 or metadata.num_columns != 1 or not plain or not first_page:
            raise IntegrityError(f"{path}: not a token shard (expected one uncompressed column in one row group)")
        end = column.data_page_offset + column.total_compressed_size
        mapped = np.memmap(path, np.uint8, "r")
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise IntegrityError(f"{path}: not a readable Parquet token shard") from error
    # More than one page would leave a page header amid the tokens, and the sizes would not come out.
    if not wanted <= column.total_compressed_size <= wanted + 256:
        raise IntegrityError(f"{path}: not a token shard (its page is {column.total_compressed_size} bytes)")
    tokens: TokenArray = np.asarray(mapped[end - wanted : end]).view(kind)
    return tokens


class TokenRow:
    """The tokens of several shards as one row: sliced like an array, read only where a slice lies."""

    def __init__(self, shards: list[TokenArray]) -> None:
        self._shards = shards
        self._ends = list(accumulate(len(shard) for shard in shards))
        self._firsts = [0, *self._ends]
        self._by_number = np.fromiter(shards, object, len(shards))
        self._of_block = np.searchsorted(self._ends, np.arange(0, self._ends[-1], BLOCK_TOKENS), "right")
        """The shard in which each block of the row begins."""

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, where: slice) -> TokenArray:
        """Tokens from `where.start` to `where.stop`, without a copy if one shard holds them."""
        start, stop, step = where.indices(self._ends[-1])
        number = bisect_right(self._ends, start)
        if start < stop <= self._ends[number]:
            first = self._firsts[number]
            return self._shards[number][start - first : stop - first : step]
        parts = [self._shards[0][:0]]
        while start < stop:
            first, end = self._firsts[number], self._ends[number]
            parts.append(self._shards[number][start - first : stop - first])
            start, number = end, number + 1
        return np.concatenate(parts)[::step]

    def located(self, starts: npt.NDArray[np.int64], length: int) -> list[tuple[Any, int]]:
        """The shard of each start, and where in it, if it holds so many tokens from there; else this row and the start.

        Whoever reads many windows asks for their places at once: one at a time it costs a seventh of the reading.
        """
        ends = np.array(self._ends)
        numbers = self._of_block[starts // BLOCK_TOKENS]  # of thirty, a binary search takes seven times as long
        while (beyond := starts >= ends[numbers]).any():
            numbers += beyond
        within = starts - np.take(self._firsts, numbers)
        shards = self._by_number[numbers].tolist()
        [across] = np.nonzero(starts + length > ends[numbers])
        for place in across.tolist():
            shards[place], within[place] = self, starts[place]
        return list(zip(shards, within.tolist(), strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.concatenate(self._shards).astype(dtype or self._shards[0].dtype, copy=False)


def map_split(folder: Path, split: str, facts: Mapping[str, Any]) -> TokenArray | TokenRow:
    """A split's tokens, flat and in order, without a copy: an array if it is one shard, else a row of arrays.

    `facts` are those of the artefact's manifest: `vocab_size`, and the tokens of each shard as `shards`.
    """
    paths = sorted(folder.glob(f"{split}-?????.parquet"))
    counts: list[int] = facts["shards"][split]
    shards = [map_shard(path, facts["vocab_size"]) for path in paths]
    found, written = [-(-len(shard) // BLOCK_TOKENS) for shard in shards], [-(-n // BLOCK_TOKENS) for n in counts]
    if found != written:
        raise IntegrityError(
            f"{folder}: split {split!r} holds {sum(found):,} blocks in {len(found)} shards, where {sum(written):,} in "
            f"{len(written)} were written"
        )
    trimmed = [shard[:n_tokens] for shard, n_tokens in zip(shards, counts, strict=True)]
    if len(trimmed) > 1:
        return TokenRow(trimmed)
    return trimmed[0] if trimmed else np.zeros(0, token_type(facts["vocab_size"]))


def read_index(folder: Path, split: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Where each document lies: the columns asked for of id, source, first_token, n_tokens, in order.

    Most of it are the ids, of 64 characters each.
    """
    path = folder / f"{split}.documents.parquet"
    return pq.read_table(path, columns=columns and list(columns), page_checksum_verification=True)
