"""Goes in: files of an artefact, by the digest of all that decides each. Comes out: the same files, the next time.

What a memo is for values, this is for files: it spares work and decides nothing. A file is kept as one more link to
it, which takes neither time nor, while the artefact has it too, room on the disk. Its name says what its sha256 was,
and it is only believed if it still is. Files that a run did not ask for are dropped when it ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.manifest import Draft, FileEntry, sha256_file
from pipeline.memo import place_of


class KeptFiles:
    """The files of earlier runs, open for one run. Made by `open_kept_files`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named = {path.name.partition("-")[0]: path for path in sorted(folder.iterdir())}
        self._asked_for: set[Path] = set()

    def fill(self, draft: Draft, path: Path, digest: bytes, write: Callable[[Path], Any]) -> None:
        """Have the file `path` of a draft: the one kept under `digest`, or else what `write(path)` makes."""
        if not self.take(draft, path, digest):
            write(path)
            self.keep(draft, path, digest)

    def take(self, draft: Draft, path: Path, digest: bytes) -> bool:
        """Put the file kept under `digest` at `path` of a draft; False if there is none, or it is not what it was."""
        kept = self._named.get(digest.hex())
        if kept is None:
            return False
        _link(kept, path)
        sha256 = sha256_file(path)
        if sha256 != kept.name.partition("-")[2]:
            path.unlink()
            return False
        draft.known[path] = FileEntry(sha256, path.stat().st_size)
        self._asked_for.add(kept)
        return True

    def keep(self, draft: Draft, path: Path, digest: bytes) -> None:
        """Keep the file `path` of a draft, which is complete, for the next run."""
        draft.known[path] = FileEntry(sha256_file(path), path.stat().st_size)
        kept = self._folder / f"{digest.hex()}-{draft.known[path].sha256}"
        kept.unlink(missing_ok=True)  # one that was altered
        _link(path, kept)
        self._named[digest.hex()] = kept
        self._asked_for.add(kept)

    def drop_the_others(self) -> None:
        """Keep no longer what nobody asked for."""
        for path in self._folder.iterdir():
            if path not in self._asked_for:
                path.unlink(missing_ok=True)


@contextmanager
def open_kept_files(name: str, key: Any) -> Iterator[KeptFiles]:
    """The kept files `name` under `key`, plain values that name everything besides a digest that decides a file."""
    folder = place_of(name, key)
    folder.mkdir(parents=True, exist_ok=True)
    kept = KeptFiles(folder)
    yield kept
    kept.drop_the_others()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # two disks, or one that knows no links
        shutil.copyfile(source, target)
