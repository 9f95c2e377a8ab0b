"""Goes in: the values of columns, as lists or arrays. Comes out: them in Arrow.

`pa.array` asks pandas, where that is installed, whether it was given a series, and so imports it: a sixth of a second
in every stage. What stages write has five types, of which Arrow takes the memory as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Values = Sequence[Any] | npt.NDArray[Any]


def column(values: Values, kind: pa.DataType) -> pa.Array:
    """An array without a null: of text, of bytes, of bytes of one width, of 64-bit integers or of truth values."""
    count = len(values)
    if pa.types.is_int64(kind):
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(np.ascontiguousarray(values, np.int64))])
    if pa.types.is_boolean(kind):
        bits = np.packbits(np.asarray(values, bool), bitorder="little")
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(bits)])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = [value.encode() for value in values]
    content = pa.py_buffer(b"".join(values))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, count, [None, content])
    large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    ends = np.zeros(count + 1, np.int64)
    np.cumsum([len(value) for value in values], out=ends[1:])
    if not large and ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{ends[-1]:,} bytes are more than a column of {kind} holds")
    offsets = pa.py_buffer(ends if large else ends.astype(np.int32))
    return pa.Array.from_buffers(kind, count, [None, offsets, content])


def table_of(columns: Sequence[Values], schema: pa.Schema) -> pa.Table:
    """Columns of one length as a table; ValueError where their lengths differ."""
    arrays = [column(values, field.type) for values, field in zip(columns, schema, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schema)
    table.validate()
    return table


def to_bytes(table: pa.Table, said: Mapping[str, Any]) -> bytes:
    """A table, and plain values that are said of it, for a memo."""
    sink = pa.BufferOutputStream()
    rows = table.replace_schema_metadata({"said": json.dumps(said)})
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def from_bytes(value: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """Both again."""
    rows = pa.ipc.open_stream(value).read_all()
    return rows, json.loads(rows.schema.metadata[b"said"])
