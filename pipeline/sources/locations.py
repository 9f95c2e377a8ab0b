"""Goes in: a folder or a file on this machine. Comes out: its files by path, or why not to open one.

Whatever is no ordinary file is turned away by name and never opened: links, pipes, sockets, devices. So is what has a
dot in front, which is an editor's or a system's.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.errors import ConfigurationError, InputOutputError, IntegrityError
from pipeline.sources.rows import OF_THE_MACHINE, RefusedError

DOTTED = "its name begins with a dot"
NOT_A_FILE = "is a pipe, a socket or a device, not a file"


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its name below its source, where it lies, and why not to read it, or ""."""

    name: str
    path: str
    reason: str = ""
    fleeting: bool = False
    """Whether it is gone when the next one is asked for."""


def files_of(place: Path, *, key: str = "ingest.texts", without: Sequence[Path] = ()) -> Iterator[Found]:
    """Every file below a folder, sorted by path, or the one file that `place` is; but what is at or below `without`.

    Raises ConfigurationError naming `key` if there is nothing. The user names the place itself, so a link is followed
    there and nowhere else.
    """
    if place.is_file():
        yield Found(place.name, str(place.resolve()))
        return
    if not place.is_dir():
        what = "is neither a folder nor a file" if place.exists() else "does not exist"
        raise ConfigurationError(f"params.yaml: {key}: {place} {what}; make it, or name another")
    root = place.resolve()
    start = len(os.fspath(root)) + 1
    others = tuple(os.fspath(other) for other in without)
    below_others = tuple(f"{other}/" for other in others)
    for path, reason in _entries(root):
        if path not in others and not path.startswith(below_others):
            yield Found(_shown(path[start:]), path, reason)


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    """Every file below `root`, each with the reason not to open it, or "" for one to read."""
    waiting = _listing(os.fspath(root))
    while waiting:  # a stack, not recursion: folders nest deeper than Python's calls
        entry = waiting.pop()
        if entry.is_symlink():
            yield entry.path, _against_link(entry.path, root)
        elif entry.name.startswith("."):
            yield entry.path, DOTTED
        elif entry.is_dir(follow_symlinks=False):
            try:
                waiting += _listing(entry.path)
            except OSError as error:
                yield entry.path, f"the folder cannot be listed: {error.strerror}"
        elif not entry.is_file(follow_symlinks=False):
            yield entry.path, NOT_A_FILE
        elif not entry.name.isascii() and not _is_utf8(entry.name):
            yield entry.path, "its name is not UTF-8"
        else:
            yield entry.path, ""


def _listing(folder: str) -> list[os.DirEntry[str]]:
    """A folder's entries, last first. With "/" after a folder's name, taking them in turn sorts by the whole path."""

    def place(entry: os.DirEntry[str]) -> bytes:
        return os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")

    with os.scandir(folder) as found:
        return sorted(found, key=place, reverse=True)


def _against_link(link: str, root: Path) -> str:
    try:
        target = Path(link).resolve(strict=True)
    except FileNotFoundError:
        return "is a link to nothing"
    except (OSError, RuntimeError):  # the latter up to Python 3.12
        return "is a link that leads round to itself"
    if not target.is_relative_to(root):
        return "is a link that leads out of the folder; copy the file in"
    return "is a link to something in the folder, which is read at its own place"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


class OpenFile:
    """An ordinary file for the length of a block, and what it looks like; IntegrityError if it changes meanwhile.

    RefusedError for what is no file or may not be read.
    """

    # A class, since a generator with @contextmanager takes a quarter longer, and there may be millions of files.
    __slots__ = ("_file", "_looks", "_path")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> tuple[BinaryIO, os.stat_result]:
        try:
            # O_NOFOLLOW and O_NONBLOCK: if the entry was swapped for a link or a pipe since it was listed, nothing is
            # read.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            self._file = io.FileIO(descriptor)
        except OSError as error:
            if error.errno in OF_THE_MACHINE:
                raise InputOutputError(f"{self._path}: {error.strerror}") from error
            raise RefusedError(f"cannot be read: {error.strerror}") from error
        self._looks = os.fstat(descriptor)
        if not stat.S_ISREG(self._looks.st_mode):
            self._file.close()
            raise RefusedError(NOT_A_FILE)
        return cast(BinaryIO, self._file), self._looks

    def __exit__(self, *_: object) -> None:
        # What changes while it is read may well look damaged, and must not be called that.
        before, after = self._looks, os.fstat(self._file.fileno())
        self._file.close()
        if before.st_size != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
            raise changed(self._path)


def changed(path: str) -> IntegrityError:
    """The error for a file that was another one when it was looked at again."""
    return IntegrityError(f"{path}: the file changed while it was read; run again when nothing writes to it")
