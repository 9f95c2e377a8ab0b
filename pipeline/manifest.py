"""An artefact is a folder whose manifest was written last: goes in, files and facts; comes out, one digest for all.

`commit` builds the folder under a temporary name beside its place, makes it durable, and renames it, so that a folder
with a manifest is always whole. The manifest holds the digests of the artefacts it was made from, so the way back from
a model to its documents is a walk over manifests with nothing taken on trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, IntegrityError, machine_errors

MANIFEST = "manifest.json"
_TEMPORARY, _REPLACED = ".partial-", "replaced-"
_FILES_AT_ONCE = 4


@dataclass(frozen=True)
class FileEntry:
    """One file of an artefact."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What an artefact is, and of what it was made. Equal artefacts have equal manifests: no time, no host, no path."""

    kind: str
    params: dict[str, Any]
    inputs: dict[str, str]
    facts: dict[str, Any]
    files: dict[str, FileEntry]
    digest: str = field(default="", compare=False)

    @property
    def size_bytes(self) -> int:
        """What all files take together."""
        return sum(entry.size_bytes for entry in self.files.values())

    def to_json(self) -> str:
        """The manifest's text, the same for the same content. Its sha256 is the artefact's digest."""
        content = {
            "kind": self.kind,
            "params": self.params,
            "inputs": self.inputs,
            "facts": self.facts,
            "files": {name: asdict(entry) for name, entry in sorted(self.files.items())},
        }
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Draft:
    """An artefact in the making: write files under `path`, put what is worth knowing into `facts`."""

    path: Path
    facts: dict[str, Any]
    known: dict[Path, FileEntry] = field(default_factory=dict)
    """What is known of some of its files already, which need not be read once more."""


@contextmanager
def commit(
    destination: Path, kind: str, *, params: Any = None, inputs: Mapping[str, Path | str] | None = None
) -> Iterator[Draft]:
    """Build the artefact `destination`: it appears whole when the block ends, and not at all if the block raises.

    `params` is the stage's dataclass (or a mapping); `inputs` names the artefacts read, as folders with a manifest or
    as digests. An artefact that was there before stays until the new one is durable.
    """
    sweep(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.parent / f"{_TEMPORARY}{destination.name}-{os.getpid()}"
    replaced = destination.parent / f"{_TEMPORARY}{_REPLACED}{destination.name}-{os.getpid()}"
    with machine_errors(f"writing {destination}", destination):
        partial.mkdir()
        try:
            draft = Draft(partial, {})
            yield draft
            paths = sorted(p for p in partial.rglob("*") if p.is_file())
            with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # the disk takes one file while another is hashed
                entries = list(pool.map(_durable, paths, map(draft.known.get, paths)))
            manifest = Manifest(
                kind=kind,
                params=asdict(params) if is_dataclass(params) and not isinstance(params, type) else dict(params or {}),
                inputs={name: i if isinstance(i, str) else read(i).digest for name, i in (inputs or {}).items()},
                facts=draft.facts,
                files={p.relative_to(partial).as_posix(): entry for p, entry in zip(paths, entries, strict=True)},
            )
            # The manifest is written last, so its presence means that the set of files is complete.
            (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            _flush(partial / MANIFEST)
            for folder in (partial, *(p for p in partial.rglob("*") if p.is_dir())):
                _flush(folder)
            if destination.exists():
                destination.rename(replaced)
            partial.rename(destination)
            _flush(destination.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        except BaseException:
            if replaced.exists() and not destination.exists():
                replaced.rename(destination)
            shutil.rmtree(partial, ignore_errors=True)
            raise


def read(folder: Path) -> Manifest:
    """The manifest of an artefact; DataError if there is none, since then there is no artefact."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        files = {name: FileEntry(**entry) for name, entry in content.pop("files").items()}
        return Manifest(**content, files=files, digest=hashlib.sha256(text.encode()).hexdigest())
    except FileNotFoundError:
        raise DataError(f"{path}: not there, so {folder} is incomplete; run the stage that makes it again") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path}: not a manifest; remove {folder} and run again") from error


def verify(folder: Path) -> Manifest:
    """The manifest, after every file was found to have its recorded size and sha256; IntegrityError otherwise."""
    manifest = read(folder)

    def check(item: tuple[str, FileEntry]) -> None:
        path, entry = folder / item[0], item[1]
        if not path.is_file():
            raise IntegrityError(f"{path}: named in the manifest but not there; remove {folder} and run again")
        if path.stat().st_size != entry.size_bytes or sha256_file(path) != entry.sha256:
            raise IntegrityError(f"{path}: its bytes are not those of the manifest; remove {folder} and run again")

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for _ in pool.map(check, manifest.files.items()):
            pass
    return manifest


def sweep(destination: Path) -> None:
    """Remove what killed writers of `destination` left behind; put back the old artefact if only that survived."""
    # The whole name must match: the leftovers of `spam-large` are no concern of `spam`.
    name = re.compile(rf"{re.escape(_TEMPORARY)}({_REPLACED})?{re.escape(destination.name)}-(\d+)")
    for leftover in sorted(destination.parent.glob(f"{_TEMPORARY}*")):
        found = name.fullmatch(leftover.name)
        if not found or (int(found[2]) != os.getpid() and _alive(int(found[2]))):
            continue
        if found[1] and not destination.exists() and (leftover / MANIFEST).exists():
            leftover.rename(destination)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _durable(file: Path, known: FileEntry | None) -> FileEntry:
    """What a manifest says of a file, which is on the disk when this returns."""
    _flush(file)
    return known or FileEntry(sha256_file(file), file.stat().st_size)


def _flush(path: Path) -> None:
    """fsync a file or a folder: the rename that follows must not overtake the bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
