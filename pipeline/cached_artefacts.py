"""Goes in: DVC's cache. Comes out: the artefacts that runs of earlier days left there, by digest.

The cache keeps a folder as a list of names and md5 sums (`….dir`), and each file under its md5. An artefact is known by
its manifest, so the manifests of all folders in the cache are read: a few kilobytes for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.manifest import MANIFEST, sha256_file

CACHE = Path(".dvc/cache/files/md5")


def cached_artefacts(cache: Path = CACHE) -> dict[str, dict[str, Path]]:
    """Digest → name → place in the cache of the files of every artefact there; some of the files may be gone."""
    found = {}
    for listing in sorted(cache.glob("??/*.dir")):
        files = dict(_files(listing, cache))
        made = files.get(MANIFEST)
        if made and made.is_file():
            found[sha256_file(made)] = files
    return found


def _files(listing: Path, cache: Path) -> Iterator[tuple[str, Path]]:
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
        yield from ((entry["relpath"], cache / entry["md5"][:2] / entry["md5"][2:]) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError):
        return  # torn by a kill; DVC makes it again when it needs it
