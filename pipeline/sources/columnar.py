"""Goes in: a Parquet, Arrow or Feather file. Comes out: a row per record, a batch in memory at a time.

Parquet's page checksums are verified where the file has them. Arrow ends its whole process at some damaged footers,
so these files are tried in a process apart first: see isolation.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from pipeline.sources.rows import Budget, Options, Refusal, RefusedError, Row, not_of_the_machine

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_BATCH = 1024
_DAMAGED = "is damaged, or not of the format that its name says; make the file again"


def read_parquet(stream: BinaryIO, options: Options, budget: Budget) -> Iterator[Row | Refusal]:
    """The records of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    try:
        with pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 20) as file:
            metadata = file.metadata
            for number in range(metadata.num_row_groups):
                budget.spend(max(0, metadata.row_group(number).total_byte_size))
            wanted = _wanted(file.schema_arrow.names, options)
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=wanted, use_threads=False):
                yield from _rows(batch, rows, budget)
                rows += batch.num_rows
            in_groups = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            expected = metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError, KeyError) as error:
        not_of_the_machine(error)
        raise RefusedError(_DAMAGED) from error
    # A damaged page header has no checksum, and makes the page look like the file's end.
    if not rows == expected == in_groups:
        raise RefusedError(f"is damaged: {rows:,} rows found, {expected:,} written; make the file again")


def read_arrow(stream: BinaryIO, options: Options, budget: Budget) -> Iterator[Row | Refusal]:
    """The records of an Arrow file (Feather version 2 is the same) or an Arrow stream."""
    import pyarrow as pa

    rows = 0
    try:
        expected = None
        if stream.read(6) == b"ARROW1":
            expected = pa.ipc.open_file(stream).num_record_batches
            stream.seek(8)  # a file is a stream between two marks, with a table of contents that may be damaged
        else:
            _require_end(stream)
        batches = pa.ipc.open_stream(stream)
        wanted = _wanted(batches.schema.names, options)
        found = 0
        for batch in batches:
            found += 1
            batch.validate(full=True)  # offsets beyond the buffer would be read without a question
            chosen = batch.select(wanted)
            for start in range(0, chosen.num_rows, ROWS_PER_BATCH):
                part = chosen.slice(start, ROWS_PER_BATCH)
                yield from _rows(part, rows, budget)
                rows += part.num_rows
        if expected not in (None, found):
            raise RefusedError(_DAMAGED)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError, KeyError) as error:
        not_of_the_machine(error)
        raise RefusedError(_DAMAGED) from error


def _require_end(stream: BinaryIO) -> None:
    """RefusedError for an Arrow stream without its end mark, since it may have been cut off between two batches."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    if stream.read() != b"\xff\xff\xff\xff\0\0\0\0":
        raise RefusedError("is cut off, or no Arrow stream: it has no end mark; make the file again")
    stream.seek(0)


def _wanted(names: list[str], options: Options) -> list[str]:
    if len(set(names)) < len(names):
        raise RefusedError("names a column twice")
    wanted = [name for name in names if options.columns is None or name in options.columns]
    if not wanted:
        raise RefusedError(f"has none of the columns {', '.join(sorted(options.columns or ()))}")
    return wanted


def _rows(batch: pa.RecordBatch, before: int, budget: Budget) -> Iterator[Row | Refusal]:
    budget.spend(batch.nbytes)
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except (UnicodeDecodeError, ValueError, OverflowError):
        for number in range(batch.num_rows):
            place = f":{before + number + 1}"
            try:
                yield Row({name: batch.column(name)[number].as_py() for name in names}, 0, place)
            except (UnicodeDecodeError, ValueError, OverflowError):
                yield Refusal("holds a value that is not what its column says, or not UTF-8", 0, place)
        return
    for number, values in enumerate(zip(*columns, strict=True), start=before + 1):
        yield Row(dict(zip(names, values, strict=True)), 0, f":{number}")
