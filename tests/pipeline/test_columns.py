"""Columns of ours are Arrow's own, and cost no import of pandas."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.columns import column, table_of

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.binary(), st.binary(max_size=5)),
    (pa.large_binary(), st.binary(max_size=5)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.bool_(), st.booleans()),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda each: str(each)[:20])
@given(st.data())
def test_a_column_is_what_arrow_makes_of_its_values(kind: pa.DataType, values: Any, data: st.DataObject) -> None:
    """Of every type, whatever the values and however many, an empty column among them."""
    drawn = data.draw(st.lists(values, max_size=20))
    made = column(drawn, kind)
    made.validate(full=True)
    assert made.equals(pa.array(drawn, kind))


def test_columns_of_different_lengths_are_refused() -> None:
    """A table is never made of what does not belong together."""
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    with pytest.raises(ValueError):
        table_of([["x"], [1, 2]], schema)


RUN = """
import sys
from pathlib import Path

from conftest import Project

project = Project(Path.cwd())
project.run("ingest")
project.run("clean", near_duplicates="keep_in_one_split")
project.vouch()
project.run("tokenize")
print("pandas" in sys.modules)
"""


def test_pandas_is_not_imported(python: Callable[..., subprocess.CompletedProcess[str]], fresh: Any) -> None:
    """Ingest, clean and tokenize never load it: it takes longer than what they do to a small corpus."""
    path = os.pathsep.join([str(Path(__file__).parent), str(REPOSITORY)])
    said = python("-c", RUN, cwd=fresh.root, PYTHONPATH=path)
    assert said.stdout == "False\n", said.stderr
