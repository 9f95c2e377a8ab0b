"""Goes in: what the stage evaluate left in data/evaluations. Comes out: one table of every model's applications."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.errors import DataError
from pipeline.evaluations.figures import METRICS_FILE, Figure
from pipeline.manifest import read


def tables(folder: Path, model: str | None) -> dict[str, list[Figure]]:
    """Model → its figures; DataError where the model, or every one, was not evaluated or has no such table."""
    files = [folder / model / METRICS_FILE] if model else sorted(folder.glob(f"*/{METRICS_FILE}"))
    found = {}
    for file in files:
        read(file.parent)  # says what to do where it is missing or half there
        try:
            rows = json.loads(file.read_bytes()).get("table", [])
            found[file.parent.name] = [Figure(**row) for row in rows]
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not what the stage evaluate writes; run it again") from error
    if not any(found.values()):
        raise DataError(f"{folder}: no model has a table of applications yet; make it with: homegrown run")
    return found
