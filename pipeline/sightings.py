"""Goes in: traced records and the models there are. Comes out: which of them saw which, and how far that can be known.

Nothing is guessed: a model saw a record if the artefact it was made from, found by its digest, lists the record. Where
that artefact is neither in data/ nor in DVC's cache, the answer is "cannot be known here".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
class _Training:
    """What a model was trained for, and on which data sets; None where it is not known here, and might be any."""

    task: str | None
    datasets: tuple[str, ...] | None


@dataclass(frozen=True)
class _Model:
    name: str
    version: int | None
    aliases: tuple[str, ...]
    trainings: Sequence[_Training]
    """Its own, and those of the models that it started from."""
    lineage: Mapping[str, str]
    """Place of each artefact that it was made from → digest."""

    def learns(self, kind: str, dataset: str) -> bool:
        """Whether it may have met a record of this kind and data set."""
        return kind == "documents" or any(
            training.task in (_TASK[kind], None) and (training.datasets is None or dataset in training.datasets)
            for training in self.trainings
        )


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
    dataset_of = {trace.id: trace.source for trace in traces}
    ids: dict[str, list[str]] = {}
    for trace in traces:
        if trace.kind in _LISTED_IN:  # refused bytes reach no model
            ids.setdefault(trace.kind, []).append(trace.id)
    here = artefacts(data)
    witnesses = _Witnesses(here, cache, {kind: pa.array(those, pa.string()) for kind, those in ids.items()})
    for model in (*_checkpoints(here, data), *_registered(here, versions)):
        for kind in ids:
            place = _LISTED_IN[kind]
            digest = model.lineage.get(place) or model.lineage.get(place.split("/")[0], "")
            if not digest and model.version is None:
                continue
            for record_id, how in witnesses.how(digest, kind).items():
                if model.learns(kind, dataset_of[record_id]):
                    found[record_id].append(Sighting(model.name, model.version, model.aliases, how))
    return found


def _checkpoints(here: Mapping[str, tuple[Path, manifest.Manifest]], data: Path) -> Iterator[_Model]:
    for folder in sorted((data / "checkpoints").glob("*/")):
        if not (folder / manifest.MANIFEST).is_file():
            continue
        made = manifest.read(folder)
        # The role of a missing ancestor is kept too: "tokens - not here", "examples - not here".
        lineage = {name.removesuffix(" - not here"): d for name, d in ancestors(folder, data, here).items()}
        trainings = _trainings(here, {made.digest, *lineage.values()})
        yield _Model(folder.relative_to(data).as_posix(), None, (), trainings, lineage)


def _registered(
    here: Mapping[str, tuple[Path, manifest.Manifest]], versions: Iterable[RegisteredVersion]
) -> Iterator[_Model]:
    for version in versions:
        lineage = {place.replace(".", "/"): digest for place, digest in version.lineage.items()}
        trainings = _trainings(here, lineage.values())
        if version.task not in {training.task for training in trainings}:
            trainings.append(_Training(version.task, None))
        yield _Model(version.name, version.version, version.aliases, trainings, lineage)


def _trainings(here: Mapping[str, tuple[Path, manifest.Manifest]], digests: Iterable[str]) -> list[_Training]:
    """The trainings of those of the artefacts that are checkpoints in data/."""
    facts = [here[digest][1].facts for digest in digests if digest in here and here[digest][1].kind == "checkpoint"]
    return [
        _Training(each.get("task", "language-model"), tuple(each["datasets"]) if "datasets" in each else None)
        for each in facts
    ]


def _rows_of(path: Path, ids: pa.Array, columns: list[str]) -> Iterator[dict[str, str]]:
    """The columns of the rows with one of these ids, a row group at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            yield from table.filter(pc.is_in(table["id"].cast(pa.string()), value_set=ids)).to_pylist()
