"""Goes in: what `homegrown trace` and `homegrown erase` were asked. Comes out: the answer on the terminal."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline import erase as erasing
from pipeline import trace as tracing
from pipeline.errors import ConfigurationError, DataError
from pipeline.sightings import UNKNOWN, Sighting, sightings
from pipeline.trace import Trace


def show(doc: str | None, text: str | None, *, as_json: bool) -> None:
    """Print the way of each record that was found; DataError if there is none."""
    if (doc is None) == (text is None):
        raise ConfigurationError("trace: give --doc ID or --text TEXT, one of them")
    found = tracing.by_id(doc) if doc else tracing.by_text(text) if text else []
    from pipeline.tracking.lineage_tags import registered_versions

    versions = registered_versions()
    if not found and doc and len(doc) == 64:
        earlier = tracing.absent(doc)
        met = sightings([earlier], versions)[earlier.id]
        found = [earlier] if any(sighting.how != UNKNOWN for sighting in met) else []
    if not found:
        what = f"with an id that begins with {doc}" if doc else "that contains this text"
        raise DataError(f"trace: there is no record {what} in data/, neither kept nor quarantined")
    models_of = sightings(found, versions)
    seen = [(trace, models_of[trace.id]) for trace in found]
    if as_json:
        print(json.dumps({"records": [{**asdict(t), "models": [asdict(s) for s in models]} for t, models in seen]}))
        return
    print("\n\n".join("\n".join(_lines(trace, models)) for trace, models in seen))


def erase(ids: list[str], text: str | None, *, yes: bool) -> None:
    """Say what would go, ask, write it down, and mark the registered versions."""
    if not ids and not text:
        raise ConfigurationError("erase: give --doc ID, --text TEXT or --purge")
    from pipeline.tracking.lineage_tags import mark_erased, registered_versions

    erasure = erasing.find(ids, text, registered_versions())
    print("\n".join(erasing.lines(erasure)))
    _confirm("erase: there is no undo but git's; go on?", yes)
    erasing.record(erasure)
    erasing.mark(erasure, mark_erased)
    print("\n".join(erasing.AFTERWARDS))


def purge(root: Path, *, yes: bool) -> None:
    """Remove what earlier runs left behind, once nothing erased is left in data/."""
    from pipeline import versioning

    _confirm(
        "erase --purge: this removes data/scratch, the stages' logs and every cached output that is not in data/ now; "
        "go on?",
        yes,
    )
    erasing.purge(lambda: versioning.forget_old_outputs(root))
    print(
        "old copies are gone from .dvc/cache and data/scratch, and the stages' logs; what Prefect and MLflow keep, DVC "
        "remotes and backups are yours to clear, see docs/erasure.md"
    )


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("erase: nobody is there to ask; give --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise KeyboardInterrupt


def _lines(trace: Trace, models: list[Sighting]) -> list[str]:
    """One record as a person reads it."""
    said = [f"{trace.kind} {trace.id}", f"  found by  {trace.match}"]
    said.append(f"  source    {' '.join(filter(None, (trace.source, trace.name)))}")
    said.append(f"  licence   {trace.licence or 'not recorded'}")
    where = f" (data/quarantine/{trace.quarantine})" if trace.quarantine else ""
    said.append(f"  verdict   {trace.verdict}{where}")
    said.append(f"  split     {trace.split or 'none'}")
    if place := trace.tokens:
        shards = ", ".join(place.shards)
        said.append(f"  tokens    {place.n_tokens:,} in {shards} from {place.offset:,}; in {place.split} from "
                    f"{place.first_token:,}")  # fmt: skip
    for model in models:
        version = "" if model.version is None else f" version {model.version}"
        alias = f" ({', '.join(model.aliases)})" if model.aliases else ""
        said.append(f"  model     {model.model}{version}{alias}: {model.how}")
    return said if models else [*said, "  model     none saw it"]
