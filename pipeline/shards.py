"""Goes in: token ids, document by document. Comes out: Parquet shards that are read as memory, without a copy.

Parquet has no 16-bit type of its own (uint16 is stored as INT32, twice the size), so a row is one block of 65,536
tokens as fixed-size binary. Uncompressed and PLAIN, the single page of a shard's single row group *is* the tokens: the
footer says where it starts, and numpy maps it. Any Parquet reader can read the same file.

A split is `SPLIT-00000.parquet`, … and `SPLIT.documents.parquet`, which says where each document lies and of which
source it is. The last block is filled up with zeros; how many tokens count stands in the artefact's manifest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass
class ShardWriter:
    """Writes one split into `folder`, holding at most one shard in memory. Call `close` at the end."""

    folder: Path
    split: str
    vocab_size: int
    tokens_per_shard: int

    def __post_init__(self) -> None:
        if self.tokens_per_shard % BLOCK_TOKENS or not BLOCK_TOKENS <= self.tokens_per_shard <= MAX_SHARD_TOKENS:
            raise ValueError(f"tokens_per_shard must be a multiple of {BLOCK_TOKENS:,} and at most 2**27")
        self._type = token_type(self.vocab_size)
        self._buffer = np.zeros(self.tokens_per_shard, self._type)
        self._filled = 0
        self.n_tokens = 0
        self.n_shards = 0
        self._index: list[pa.Table] = []
        self._index_rows = 0
        self._index_file: pq.ParquetWriter | None = None

    def add(self, document_id: str, source: str, ids: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Append one document's ids, its end-of-text token among them."""
        tokens = np.asarray(ids, dtype=self._type)
        self.extend([document_id], [source], np.array([len(tokens)]), tokens)

    def extend(
        self, document_ids: list[str], sources: list[str], lengths: npt.NDArray[np.int64], tokens: TokenArray
    ) -> None:
        """Append documents one after the other: `lengths` of them, `tokens` of all, of this split's type."""
        if tokens.dtype != self._type or int(lengths.sum()) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens of {tokens.dtype}, expected {lengths.sum()} of {self._type}")
        first = self.n_tokens + np.cumsum(lengths) - lengths
        self._index.append(table_of([document_ids, sources, first, lengths], _INDEX_SCHEMA))
        self._index_rows += len(document_ids)
        self._write_index(_INDEX_ROWS_PER_GROUP)
        self.n_tokens += len(tokens)
        while len(tokens):
            room = self.tokens_per_shard - self._filled
            part, tokens = tokens[:room], tokens[room:]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == self.tokens_per_shard:
                self._write_shard()

    def close(self) -> None:
        """Write what is left of the tokens and of the index."""
        if self._filled or not self.n_shards:
            self._write_shard()
        self._write_index(1)
        assert self._index_file is not None
        self._index_file.close()

    def _write_index(self, at_least: int) -> None:
        """Write whole row groups of the index; its bytes depend on the documents, not on how they came."""
        if self._index_file is None:
            path = self.folder / f"{self.split}.documents.parquet"
            self._index_file = pq.ParquetWriter(path, _INDEX_SCHEMA, write_page_checksum=True)
        if self._index_rows < at_least:
            return
        rows = pa.concat_tables(self._index).combine_chunks()
        while len(rows) >= at_least:
            self._index_file.write_table(rows[:_INDEX_ROWS_PER_GROUP])
            rows = rows[_INDEX_ROWS_PER_GROUP:]
        self._index, self._index_rows = [rows], len(rows)

    def _write_shard(self) -> None:
        blocks = max(1, -(-self._filled // BLOCK_TOKENS))
        tokens = self._buffer[: blocks * BLOCK_TOKENS]
        tokens[self._filled :] = 0
        width = BLOCK_TOKENS * self._type.itemsize
        rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), blocks, [None, pa.py_buffer(tokens)])
        pq.write_table(
            pa.table({"tokens": rows}),
            self.folder / f"{self.split}-{self.n_shards:05d}.parquet",
            compression="NONE",
            use_dictionary=False,
            column_encoding={"tokens": "PLAIN"},
            data_page_size=_ONE_PAGE_BYTES,
            row_group_size=blocks,
            write_page_checksum=True,
            write_statistics=False,
        )
        self.n_shards += 1
        self._filled = 0


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
        numbers = np.searchsorted(self._ends, starts, "right")
        within = starts - np.take(self._firsts, numbers)
        shards: list[Any] = [self._shards[number] for number in numbers.tolist()]
        [across] = np.nonzero(starts + length > np.take(self._ends, numbers))
        for place in across.tolist():
            shards[place], within[place] = self, starts[place]
        return list(zip(shards, within.tolist(), strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.concatenate(self._shards).astype(dtype or self._shards[0].dtype, copy=False)


def map_split(folder: Path, split: str, *, vocab_size: int, n_tokens: int) -> TokenArray | TokenRow:
    """A split's tokens, flat and in order, without a copy: an array if it is one shard, else a row of arrays."""
    shards = [map_shard(path, vocab_size) for path in sorted(folder.glob(f"{split}-?????.parquet"))]
    total = sum(len(shard) for shard in shards)
    if not shards or not n_tokens <= total < n_tokens + BLOCK_TOKENS + 1:
        raise IntegrityError(f"{folder}: split {split!r} holds {total:,} tokens where {n_tokens:,} were written")
    shards[-1] = shards[-1][: len(shards[-1]) - (total - n_tokens)]
    return shards[0] if len(shards) == 1 else TokenRow(shards)


def read_index(folder: Path, split: str) -> pa.Table:
    """Where each document lies: columns id, source, first_token, n_tokens, in order."""
    return pq.read_table(folder / f"{split}.documents.parquet", page_checksum_verification=True)
