"""Goes in: nothing, or what was erased. Comes out: every registered version with its lineage, or its new marks.

The weights of a version that saw an erased document still hold what they learned of it; the mark says so to whoever
looks at the version, and the digests in it are those of data/erasures.txt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.connection import DEFAULT_URI, connect, mlflow_errors, tracking_uri
from pipeline.tracking.registry import promotion_lock

ERASED_TAG = "homegrown.erased_documents"
_LINEAGE = "homegrown.lineage."
_MARK = "\n\n> **Erased since:** "
# MLflow takes 5,000 characters for a tag; an id and a comma are 65.
_IDS_IN_A_TAG = 70


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry: `lineage` is place → digest, such as tokens → 4f1c…."""

    name: str
    version: int
    aliases: tuple[str, ...]
    task: str | None
    lineage: dict[str, str]


def registered_versions() -> list[RegisteredVersion]:
    """Every version of every model, in order; none, without making one, where there is no registry yet."""
    if tracking_uri() == DEFAULT_URI and not Path("mlflow.db").exists():
        return []
    client = connect()
    found = []
    with mlflow_errors():
        for model in client.search_registered_models():
            aliases: dict[int, list[str]] = {}
            for alias, number in client.get_registered_model(model.name).aliases.items():
                aliases.setdefault(int(number), []).append(alias)
            for version in client.search_model_versions(f"name='{model.name}'"):
                lineage = {
                    key.removeprefix(_LINEAGE).split(" ")[0]: digest
                    for key, digest in version.tags.items()
                    if key.startswith(_LINEAGE)
                }
                number = int(version.version)
                found.append(
                    RegisteredVersion(
                        model.name,
                        number,
                        tuple(sorted(aliases.get(number, ()))),
                        version.tags.get("homegrown.task"),
                        lineage,
                    )
                )
    return sorted(found, key=lambda version: (version.name, version.version))


def mark_erased(name: str, number: int, ids: Iterable[str]) -> int:
    """Write into a version's tags and description that these records of its data were erased; how many it names now."""
    client = connect()
    with mlflow_errors(), promotion_lock():
        version = client.get_model_version(name, str(number))
        known = [key for key in version.tags if key.startswith(f"{ERASED_TAG}.")]
        erased = sorted({i for key in known for i in version.tags[key].split(",")} | set(ids))
        for part, first in enumerate(range(0, len(erased), _IDS_IN_A_TAG)):
            value = ",".join(erased[first : first + _IDS_IN_A_TAG])
            client.set_model_version_tag(name, str(number), f"{ERASED_TAG}.{part}", value)
        client.set_model_version_tag(name, str(number), ERASED_TAG, str(len(erased)))
        said = (version.description or "").split(_MARK)[0]
        note = f"{len(erased):,} records that this version was made with. Its weights were not changed by that."
        client.update_model_version(name, str(number), description=f"{said}{_MARK}{note}")
    return len(erased)
