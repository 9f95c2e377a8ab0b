"""Goes in: records that must go. Comes out: data/erasures.txt with their digests, and what else has to be done.

`erase` changes no data itself: it records the decision, and the next run makes everything anew without the records.
Old copies stay in DVC's cache and in data/scratch, and what was said of them in the stages' logs, until `purge`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import erasures
from pipeline.errors import DataError
from pipeline.lineage import DATA, artefacts
from pipeline.sightings import MEASURED, UNKNOWN, Sighting, sightings
from pipeline.trace import FILES, Trace, by_ids, by_text, copies_of, distinct, still_held
from pipeline.tracking.lineage_tags import RegisteredVersion
from pipeline.tracking.spool import STATE

SCRATCH = "scratch"


@dataclass(frozen=True)
class Erasure:
    """What an erasure concerns."""

    records: list[Trace]
    copies: list[Trace]
    """Records that were not named but have the same letters and digits: they go too."""
    models: dict[tuple[str, int | None], list[Sighting]]
    """Model and version → one sighting for each record it met."""
    ids_of: dict[tuple[str, int | None], list[str]]
    """The same models → the ids of the records that they are known to have met."""

    @property
    def shards(self) -> list[str]:
        """The token shards that hold one of the records."""
        places = [trace.tokens for trace in (*self.records, *self.copies) if trace.tokens]
        return sorted({f"tokens/{shard}" for place in places for shard in place.shards})

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Source and name of each record: the original still stands there."""
        return sorted({(trace.source, trace.name) for trace in (*self.records, *self.copies)})


def find(ids: Iterable[str], text: str | None, versions: list[RegisteredVersion], data: Path = DATA) -> Erasure:
    """What has to go, and whom it concerns; DataError for an id or a text that stands nowhere. Changes nothing."""
    records: list[Trace] = []
    for prefix, those in by_ids(ids, data).items():
        if not those:
            raise DataError(f"erase: no record has an id that begins with {prefix}; `homegrown trace` finds it by text")
        records += those
    if text is not None:
        found = by_text(text, data)
        if not found:
            raise DataError("erase: no record contains that text")
        records += found
    records = distinct(records)
    copies = copies_of(records, data)
    models: dict[tuple[str, int | None], list[Sighting]] = {}
    ids_of: dict[tuple[str, int | None], list[str]] = {}
    for record_id, seen in sightings([*records, *copies], versions, data).items():
        for sighting in seen:
            models.setdefault((sighting.model, sighting.version), []).append(sighting)
            if sighting.how != UNKNOWN:
                ids_of.setdefault((sighting.model, sighting.version), []).append(record_id)
    return Erasure(records, copies, models, ids_of)


def record(erasure: Erasure, path: Path = erasures.FILE) -> None:
    """Write the digests down, so that ingest never writes these records again."""
    traces = [*erasure.records, *erasure.copies]
    known = frozenset(trace.id for trace in traces if trace.kind in FILES)
    texts = {trace.text_digest for trace in traces} - {erasures.text_digest("")}  # some were refused without a byte
    erasures.record(erasures.Erasures(known, frozenset(texts)), path)


def mark(erasure: Erasure, marker: Callable[[str, int, Iterable[str]], int]) -> None:
    """Mark every registered version that is known to have met one of the records."""
    for (name, version), ids in erasure.ids_of.items():
        if version is not None:
            marker(name, version, ids)


def lines(erasure: Erasure) -> list[str]:
    """What to tell the person: what goes, who saw it, and what remains where."""
    kinds = Counter(trace.kind for trace in (*erasure.records, *erasure.copies))
    said = ["to erase: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))]
    if erasure.copies:
        said.append(f"{len(erasure.copies):,} of them are copies that were not named: same letters and digits")
    said += [f"still at its origin, which you own: {source} {name}".rstrip() for source, name in erasure.sources]
    said += [f"shard: {shard}" for shard in erasure.shards] or ["in no token shard"]
    for (name, version), seen in sorted(erasure.models.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        label = name if version is None else f"{name} version {version}"
        alias = f" ({', '.join(seen[0].aliases)})" if seen[0].aliases else ""
        said.append(f"{label}{alias}: {', '.join(sorted({s.how for s in seen}))}")
    for (name, version), seen in sorted(erasure.models.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        if "champion" in seen[0].aliases and {s.how for s in seen} != {MEASURED}:
            said.append(
                f"{name} version {version} is CHAMPION and is being served with what it learned from the erased "
                "records, or may be; after the next run promote its successor"
            )
    return said


AFTERWARDS = (
    "recorded in data/erasures.txt; next: commit that file, `homegrown run`, then `homegrown erase --purge`",
    "until then old copies lie in data/, .dvc/cache and data/scratch; weights in the registry keep what they learned",
)


def purge(
    remove_old_cache: Callable[[], None], data: Path = DATA, path: Path = erasures.FILE, logs: Path = STATE / "logs"
) -> None:
    """Remove old copies from data/scratch and DVC's cache, and the logs of stages, which name records and quote models.

    DataError while data/ itself may hold an erased record.
    """
    held = still_held(erasures.load(path), data)
    if held:
        raise DataError(
            f"erase --purge: {len(held):,} erased records are still in data/, one in {next(iter(held.values()))}; "
            "`homegrown run` first"
        )
    here = artefacts(data)
    of_before = sorted(
        folder
        for folder, made in here.values()
        if data / SCRATCH not in folder.parents and not here.keys() >= set(made.inputs.values())
    )
    if of_before:
        raise DataError(
            f"erase --purge: {of_before[0]} was made from what is not in data/ any more, so an erased record may be in "
            "it; `homegrown run` first, or remove the folder of a model that is not in params.yaml any more"
        )
    shutil.rmtree(data / SCRATCH, ignore_errors=True)
    for log in logs.glob("*"):
        # A server may be writing to its own, and says nothing of records.
        if log.is_file() and not log.name.endswith("-server.log"):
            log.unlink()
    remove_old_cache()
