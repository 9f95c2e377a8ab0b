"""Goes in: the parts that a shard is made of. Comes out: the shard, if an earlier run made it of the same parts.

Nothing is copied: what lies in data/scratch/shards is a link to the shard's own file, and is looked at before it is
believed. As with a memo, a stage writes the same bytes with it, without it, or with half of it; what a run did not ask
for goes when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import manifest
from pipeline.digests import digest_of
from pipeline.document_tokens import DocumentTokens
from pipeline.errors import HomegrownError
from pipeline.import_closure import code_of
from pipeline.memo import code_digest

FOLDER = Path("data/scratch/shards")
_DOCUMENTS = "documents.json"

BySplit = dict[str, DocumentTokens]


class RememberedShards:
    """The shards of earlier runs under one key. Made by `remembered_shards`."""

    def __init__(self, place: Path) -> None:
        """`place` is theirs alone."""
        self._place = place
        self._used: set[str] = set()

    def holds(self, digest: str) -> bool:
        """Whether the shards of these parts are here, with the bytes that they had."""
        try:
            manifest.verify(self._place / digest)
        except HomegrownError:
            shutil.rmtree(self._place / digest, ignore_errors=True)
            return False
        self._used.add(digest)
        return True

    def linked(self, digest: str, folder: Path) -> BySplit:
        """The documents of shards that are held, and links to those in `folder`, for `SplitWriter` to take."""
        said = json.loads((self._place / digest / _DOCUMENTS).read_text(encoding="utf-8"))
        found = {}
        for split, of_split in said.items():
            shards = [(folder / f"{digest}-{name}", n_tokens) for name, n_tokens in of_split.pop("shards")]
            for path, _ in shards:
                _link(self._place / digest / path.name.removeprefix(f"{digest}-"), path)
            lengths, text_digests = np.array(of_split.pop("lengths"), np.int64), of_split.pop("text_digests")
            found[split] = DocumentTokens(shards, lengths=lengths, text_digests=bytes.fromhex(text_digests), **of_split)
        return found

    def keep(self, digest: str, made: BySplit) -> None:
        """Hold the shards of these parts for the next run."""
        self._used.add(digest)
        with manifest.commit(self._place / digest, "shards") as draft:
            said = {}
            for split, documents in made.items():
                names = [f"{split}-{number}" for number in range(len(documents.shards))]
                for name, (path, _) in zip(names, documents.shards, strict=True):
                    _link(path, draft.path / name)
                of_split = asdict(documents)
                of_split["shards"] = [(name, n) for name, (_, n) in zip(names, documents.shards, strict=True)]
                of_split["lengths"] = documents.lengths.tolist()
                of_split["text_digests"] = documents.text_digests.hex()
                said[split] = of_split
            (draft.path / _DOCUMENTS).write_text(json.dumps(said), encoding="utf-8")

    def drop_unused(self) -> None:
        """Keep none that this run did not ask for."""
        for path in self._place.iterdir() if self._place.is_dir() else ():
            if path.name not in self._used:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def remembered_shards(key: Any, folder: Path = FOLDER) -> Iterator[RememberedShards]:
    """The shards that earlier runs made under `key`, plain values that name everything besides the parts and the code
    that decides a shard; those of another key are removed."""
    key = {
        "key": key,
        "code": code_of("pipeline.document_tokens"),
        "libraries": code_digest(libraries=("gigatoken", "pyarrow", "tiktoken")),
    }
    place = folder / digest_of(key)[:32]
    for other in folder.glob("*"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
    remembered = RememberedShards(place)
    yield remembered
    remembered.drop_unused()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system that has no links, or no more for this file
        shutil.copyfile(source, target)
