"""Goes in: an artefact. Comes out: its ancestors, each found by digest, back to the documents; and which code ran."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline import manifest
from pipeline.digests import digest_of
from pipeline.errors import IntegrityError

DATA = Path("data")
CODE = (Path("pipeline"), Path("model"))
NO_GIT = "none"


def artefacts(data: Path = DATA) -> dict[str, tuple[Path, manifest.Manifest]]:
    """The folder and the manifest of every artefact in data/, by digest."""
    here = {}
    for path in sorted(data.rglob(manifest.MANIFEST)):
        try:
            found = manifest.read(path.parent)
        except IntegrityError:
            continue  # not one of ours: a file of that name among the user's data, say
        here[found.digest] = (path.parent, found)
    return here


def ancestors(
    folder: Path, data: Path = DATA, here: Mapping[str, tuple[Path, manifest.Manifest]] | None = None
) -> dict[str, str]:
    """Kind and place of every artefact that this one was made from → digest; a digest that no folder has is kept too.

    Nothing is taken on trust: a folder counts as an ancestor only if its manifest has the digest that was recorded.
    `here`, the artefacts in data/, spares who asks often to look for them each time.
    """
    here = artefacts(data) if here is None else here
    lineage: dict[str, str] = {}
    waiting = [manifest.read(folder)]
    while waiting:
        for name, digest in sorted(waiting.pop().inputs.items()):
            if digest not in here:
                lineage[f"{name} - not here"] = digest
                continue
            path, found = here[digest]
            place = path.relative_to(data).as_posix()
            if place not in lineage:
                lineage[place] = digest
                waiting.append(found)
    return dict(sorted(lineage.items()))


def code_digest(folders: tuple[Path, ...] = CODE) -> str:
    """One digest of every Python file that decides results."""
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return digest_of({file.as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files})


def commit_id(root: Path = Path()) -> tuple[str, bool]:
    """The commit that is checked out, and whether tracked files differ from it; (NO_GIT, True) outside git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return NO_GIT, True


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
