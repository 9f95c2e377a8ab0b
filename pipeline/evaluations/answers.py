"""Goes in: what was found for each item. Comes out: the same after a kill, so that a long evaluation goes on.

A line of JSON per item in data/scratch/evaluations/KEY.jsonl, the key being the digest of model, data and settings. A
line that a kill has torn is dropped; what was found for an item twice counts the second time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import TryAgainError, machine_errors

FOLDER = Path("data") / "scratch" / "evaluations"


class Answers:
    """The record of one evaluation: reads like a dictionary, and grows on disk."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        if not path.exists():
            return
        content = path.read_bytes()
        whole = 0
        for line in content.splitlines(keepends=True):
            try:
                id_, value = json.loads(line)
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self._found[id_] = value
            whole += len(line)
        if whole < len(content) and not read_only:
            os.truncate(path, whole)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._found

    def __getitem__(self, id_: str) -> Any:
        return self._found[id_]

    def __len__(self) -> int:
        return len(self._found)

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep what was found for some items; on disk when this returns."""
        lines = "".join(json.dumps([id_, value], ensure_ascii=False) + "\n" for id_, value in values.items())
        with machine_errors("evaluate", self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._found.update(values)


@contextmanager
def open_answers(key: str, folder: Path = FOLDER) -> Iterator[Answers]:
    """The record under this key, for one process at a time; TryAgainError while another has it."""
    with machine_errors("evaluate", folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{key}.lock", timeout=0):
            yield Answers(folder / f"{key}.jsonl")
    except Timeout:
        raise TryAgainError("evaluate: the same evaluation is running already; wait for it, then run again") from None
