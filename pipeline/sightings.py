"""Goes in: traced records and the models there are. Comes out: which of them saw which, and how far that can be known.

Nothing is guessed: a model saw a record if the artefact it was made from, found by its digest, lists the record. Where
that artefact is neither in data/ nor in DVC's cache, the answer is "cannot be known here".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import manifest
from pipeline.cached_artefacts import CACHE, cached_artefacts
from pipeline.documents import KINDS
from pipeline.lineage import DATA, ancestors, artefacts
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


@dataclass(frozen=True)
class _Model:
    name: str
    version: int | None
    aliases: tuple[str, ...]
    tasks: frozenset[str | None]
    """What it was trained for, and what the models that it started from were; None where nobody wrote it down."""
    lineage: Mapping[str, str]
    """Place of each artefact that it was made from → digest."""

    def learns(self, kind: str) -> bool:
        """Whether it may have met such a record; a task nobody wrote down might be any."""
        return kind == "documents" or not self.tasks.isdisjoint({_TASK[kind], None})


@dataclass
class _Witnesses:
    """The artefacts that list records, each looked up and read once."""

    here: Mapping[str, tuple[Path, manifest.Manifest]]
    cache: Path
    ids: Mapping[str, pa.Array]
    """Kind → the ids asked for."""
    _found: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def how(self, digest: str, kind: str) -> dict[str, str]:
        """What a model made from the artefact with this digest did with the records; those it never met are left out.

        Without the artefact it cannot be known of any.
        """
        key = digest, kind
        if key not in self._found:
            files = self._files(digest)
            unknown = dict.fromkeys(self.ids[kind].to_pylist(), UNKNOWN)
            self._found[key] = unknown if files is None else dict(self._listed(files, kind))
        return self._found[key]

    def _listed(self, files: Mapping[str, Path], kind: str) -> Iterator[tuple[str, str]]:
        ids = self.ids[kind]
        for name, path in files.items():
            if kind == "documents" and name.endswith(".documents.parquet"):
                how = TRAINED if name.startswith("train") else MEASURED
                yield from ((row["id"], how) for row in _rows_of(path, ids, ["id"]))
            elif name.split("/")[0] == f"{kind}.parquet":
                for row in _rows_of(path, ids, ["id", "split"]):
                    yield row["id"], TRAINED if row["split"] == "train" else MEASURED

    def _files(self, digest: str) -> dict[str, Path] | None:
        if digest in self.here:
            folder, made = self.here[digest]
            return {name: folder / name for name in made.files}
        files = self._cached.get(digest)
        return files if files and all(path.is_file() for path in files.values()) else None

    @cached_property
    def _cached(self) -> dict[str, dict[str, Path]]:
        return cached_artefacts(self.cache)


def sightings(
    traces: Iterable[Trace], versions: Iterable[RegisteredVersion], data: Path = DATA, cache: Path = CACHE
) -> dict[str, list[Sighting]]:
    """By the id of each record, the checkpoints in data/ and the registered versions that met it, or may have.

    One pass over what lists records, however many records there are.
    """
    found: dict[str, list[Sighting]] = {trace.id: [] for trace in traces}
    ids: dict[str, list[str]] = {}
    for trace in traces:
        if trace.kind in _LISTED_IN:  # refused bytes reach no model
            ids.setdefault(trace.kind, []).append(trace.id)
    here = artefacts(data)
    witnesses = _Witnesses(here, cache, {kind: pa.array(those, pa.string()) for kind, those in ids.items()})
    for model in (*_checkpoints(here, data), *_registered(here, versions)):
        for kind in ids:
            if not model.learns(kind):
                continue
            place = _LISTED_IN[kind]
            digest = model.lineage.get(place) or model.lineage.get(place.split("/")[0], "")
            if not digest and model.version is None:
                continue
            for record_id, how in witnesses.how(digest, kind).items():
                found[record_id].append(Sighting(model.name, model.version, model.aliases, how))
    return found


def _checkpoints(here: Mapping[str, tuple[Path, manifest.Manifest]], data: Path) -> Iterator[_Model]:
    for folder in sorted((data / "checkpoints").glob("*/")):
        if not (folder / manifest.MANIFEST).is_file():
            continue
        made = manifest.read(folder)
        # The role of a missing ancestor is kept too: "tokens - not here", "examples - not here".
        lineage = {name.removesuffix(" - not here"): d for name, d in ancestors(folder, data, here).items()}
        tasks = _tasks(here, {made.digest, *lineage.values()})
        yield _Model(folder.relative_to(data).as_posix(), None, (), tasks, lineage)


def _registered(
    here: Mapping[str, tuple[Path, manifest.Manifest]], versions: Iterable[RegisteredVersion]
) -> Iterator[_Model]:
    for version in versions:
        lineage = {place.replace(".", "/"): digest for place, digest in version.lineage.items()}
        tasks = _tasks(here, lineage.values()) | {version.task}
        yield _Model(version.name, version.version, version.aliases, tasks, lineage)


def _tasks(here: Mapping[str, tuple[Path, manifest.Manifest]], digests: Iterable[str]) -> frozenset[str | None]:
    """What those of the artefacts that are checkpoints were trained for."""
    made = [here[digest][1] for digest in digests if digest in here]
    return frozenset(each.facts.get("task", "language-model") for each in made if each.kind == "checkpoint")


def _rows_of(path: Path, ids: pa.Array, columns: list[str]) -> Iterator[dict[str, str]]:
    """The columns of the rows with one of these ids, a row group at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            yield from table.filter(pc.is_in(table["id"].cast(pa.string()), value_set=ids)).to_pylist()
