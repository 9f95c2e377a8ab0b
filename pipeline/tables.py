"""Goes in: rows. Comes out: a CSV file that `dvc plots` draws."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_csv(rows: Sequence[Mapping[str, object]], columns: Sequence[str], path: Path) -> None:
    """The rows that have every one of `columns`, with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if all(column in row for column in columns))
