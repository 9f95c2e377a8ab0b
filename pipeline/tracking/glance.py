"""Goes in: models and a registry. Comes out: what MLflow said of them last, if nothing has changed since.

Loading MLflow takes seconds, most of a run in which everything is cached. Where the registry is a SQLite file, a digest
of its tables says in milliseconds whether they are as they were; what they mean is MLflow's affair alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.tracking.connection import tracking_uri
from pipeline.tracking.registry import CHAMPION, IS_CHAMPION, Version
from pipeline.tracking.spool import STATE

_LAST_LOOK = STATE / "registry_look.json"
_TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND (name LIKE 'registered_model%' "
    "OR name LIKE 'model_version%') ORDER BY name"
)


def registry_digest() -> str | None:
    """A digest of every row that MLflow keeps about models; None where its registry is not a SQLite file at hand."""
    address = urlsplit(tracking_uri())
    path = Path(address.path[1:])  # sqlite:///relative, sqlite:////absolute
    if address.scheme != "sqlite" or os.environ.get("MLFLOW_REGISTRY_URI") or not path.is_file():
        return None
    rows = []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            for (table,) in database.execute(_TABLES).fetchall():
                rows.append((table, sorted(map(repr, database.execute(f'SELECT * FROM "{table}"')))))
    except sqlite3.Error:
        return None
    return hashlib.sha256(repr(rows).encode()).hexdigest() if rows else None


def remember(wanted: str, versions: Sequence[Version]) -> None:
    """Keep what was found for what was `wanted` (a digest of it), together with the registry's digest now."""
    _LAST_LOOK.parent.mkdir(parents=True, exist_ok=True)
    found = [
        replace(version, is_new=False, note=IS_CHAMPION if CHAMPION in version.aliases else version.note)
        for version in versions
    ]
    look = {"wanted": wanted, "registry": registry_digest(), "versions": [asdict(version) for version in found]}
    _LAST_LOOK.write_text(json.dumps(look, indent=2) + "\n", encoding="utf-8")


def recall(wanted: str) -> list[Version] | None:
    """What was found for the same wish in the same registry; None if either has changed, or that cannot be told."""
    try:
        look = json.loads(_LAST_LOOK.read_text(encoding="utf-8"))
        if look["wanted"] != wanted or look["registry"] is None or look["registry"] != registry_digest():
            return None
        return [Version(**{**row, "aliases": tuple(row["aliases"])}) for row in look["versions"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
