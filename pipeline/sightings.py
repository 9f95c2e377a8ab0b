"""Goes in: a traced record and the models there are. Comes out: which of them saw it, and how far that can be known.

Nothing is guessed: a model saw a record if the artefact it was made from, found by its digest, lists the record. Where
that artefact is neither in data/ nor in DVC's cache, the answer is "cannot be known here".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import manifest
from pipeline.cached_artefacts import CACHE, cached_artefact
from pipeline.documents import KINDS
from pipeline.lineage import DATA, ancestors
from pipeline.trace import Trace
from pipeline.tracking.lineage_tags import RegisteredVersion

TRAINED, MEASURED, UNKNOWN = "trained on it", "measured on it, not trained", "cannot be known here"
# Which artefact lists the records of a kind, and which task learns from them; documents reach every model.
_LISTED_IN = {kind: "tokens" if kind == "documents" else "examples/clean" for kind in KINDS}
_TASK = {
    "messages": "classification",
    "preferences": "preferences",
    **dict.fromkeys(("instructions", "conversations", "translations", "questions"), "instructions"),
}


@dataclass(frozen=True)
class Sighting:
    """One model and one record."""

    model: str
    """A checkpoint's place in data/, or the name of a registered model."""
    version: int | None
    """The registered version."""
    aliases: tuple[str, ...]
    how: str
    """TRAINED, MEASURED or UNKNOWN."""


@dataclass
class Witnesses:
    """Answers by artefact digest, each artefact looked up once."""

    data: Path = DATA
    cache: Path = CACHE
    _files: dict[tuple[str, str], dict[str, Path] | None] = field(default_factory=dict)

    def how(self, digest: str, kind: str, record_id: str) -> str | None:
        """What a model made from the artefact with this digest did with the record; None if it never met it."""
        files = self._artefact(digest, _LISTED_IN[kind])
        if files is None:
            return UNKNOWN
        if kind != "documents":
            parts = [path for name, path in files.items() if name.split("/")[0] == f"{kind}.parquet"]
            split = next((found for part in parts if (found := _value(part, record_id, "split")) is not None), None)
            return None if split is None else TRAINED if split == "train" else MEASURED
        for name, path in files.items():
            if name.endswith(".documents.parquet") and _value(path, record_id, "id") is not None:
                return TRAINED if name.startswith("train") else MEASURED
        return None

    def _artefact(self, digest: str, place: str) -> dict[str, Path] | None:
        if (digest, place) not in self._files:
            folder = self.data / place
            if (folder / manifest.MANIFEST).is_file() and manifest.read(folder).digest == digest:
                self._files[digest, place] = {name: folder / name for name in manifest.read(folder).files}
            else:
                self._files[digest, place] = cached_artefact(digest, self.cache)
        return self._files[digest, place]


def sightings(
    trace: Trace, versions: Iterable[RegisteredVersion], data: Path = DATA, witnesses: Witnesses | None = None
) -> list[Sighting]:
    """The checkpoints in data/ and the registered versions that met the record, or of which it cannot be known."""
    if trace.kind not in _LISTED_IN:
        return []  # refused bytes reach no model
    witnesses = witnesses or Witnesses(data)
    place = _LISTED_IN[trace.kind]
    found = []
    for folder in sorted((data / "checkpoints").glob("*/")):
        if not (folder / manifest.MANIFEST).is_file():
            continue
        made = manifest.read(folder)
        if _learns(made.facts.get("task", "language-model"), trace.kind):
            # The role of a missing ancestor is kept too: "tokens - not here", "examples - not here".
            lineage = {name.removesuffix(" - not here"): digest for name, digest in ancestors(folder, data).items()}
            digest = lineage.get(place) or lineage.get(place.split("/")[0])
            if digest and (how := witnesses.how(digest, trace.kind, trace.id)):
                found.append(Sighting(folder.relative_to(data).as_posix(), None, (), how))
    for version in versions:
        if not _learns(version.task, trace.kind):
            continue
        key = place.replace("/", ".")
        digest = version.lineage.get(key) or version.lineage.get(key.split(".")[0])
        how = witnesses.how(digest, trace.kind, trace.id) if digest else UNKNOWN
        if how:
            found.append(Sighting(version.name, version.version, version.aliases, how))
    return found


def _learns(task: str | None, kind: str) -> bool:
    """Whether a model of this task learns from this kind of record; a task nobody wrote down might be any."""
    return kind == "documents" or task is None or task == _TASK[kind]


def _value(path: Path, record_id: str, column: str) -> str | None:
    """The column of the row with this id, a row group at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=sorted({"id", column}))
            row = table.filter(pc.equal(table["id"], record_id))
            if len(row):
                return str(row[column][0].as_py())
    return None
