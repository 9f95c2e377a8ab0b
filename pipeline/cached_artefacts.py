"""Goes in: an artefact's digest. Comes out: its files in DVC's cache, if a run of an earlier day left them there.

The cache keeps a folder as a list of names and md5 sums (`….dir`), and each file under its md5. An artefact is known by
its manifest, so the manifests of all folders in the cache are read: a few kilobytes for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.manifest import MANIFEST, sha256_file

CACHE = Path(".dvc/cache/files/md5")


def cached_artefact(digest: str, cache: Path = CACHE) -> dict[str, Path] | None:
    """Name → file in the cache of the artefact with this digest; None if the cache does not hold all of it."""
    for listing in sorted(cache.glob("??/*.dir")):
        files = dict(_files(listing, cache))
        found = files.get(MANIFEST)
        if found and found.is_file() and sha256_file(found) == digest:
            return files if all(path.is_file() for path in files.values()) else None
    return None


def _files(listing: Path, cache: Path) -> Iterator[tuple[str, Path]]:
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
        yield from ((entry["relpath"], cache / entry["md5"][:2] / entry["md5"][2:]) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError):
        return  # torn by a kill; DVC makes it again when it needs it
