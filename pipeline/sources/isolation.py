"""Goes in: a file whose library may end its process or never return. Comes out: that it reads to its end, or why not.

Some damaged Parquet footers make Arrow abort, and some PDFs make their reader loop. A child process, kept for the run,
tries each such file first; if it dies or takes too long, the file is refused and the next one gets a new child. The
file goes over as an open descriptor, so the child opens no path of its own.

These files are also the slowest to read, so several children try those that come next while one is taken in.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.errors import InputOutputError
from pipeline.sources.rows import Options, Refusal, RefusedError, Row

if TYPE_CHECKING:
    from pipeline.memo import Memo
    from pipeline.sources.locations import Found

CPU_SECONDS = 10.0
BYTES_PER_SECOND = 1 << 20  # a slow PDF; a table is a hundred times faster
# A damaged length makes Arrow ask for, and clear, gigabytes; a sound file is read a page or two at a time.
MEMORY_BYTES = 2 << 30
# On a machine of a hundred cores the stacks of NumPy's idle threads alone would use that memory up.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# What counts is the CPU's time, so that a busy machine refuses the same files; a reader that sleeps meets the clock.
_WALL_FACTOR = 6
_START_SECONDS = 60.0
MOST_CHILDREN = 8  # each holds the readers' libraries, some 40 MB
_FILES_AHEAD = 4  # for each child
_TOO_LONG = "takes too long to read, as a damaged or hostile file does"

_Identity = tuple[int, ...]


class Isolation:
    """Tries files in child processes, which end with this context. What `memo` knows is not tried again."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS, memo: Memo | None = None, children: int = 1) -> None:
        """With several children, files are tried before their turn where `ahead` was told of them."""
        self.memo = memo
        self._cpu_seconds = cpu_seconds
        self._count = min(children, MOST_CHILDREN)
        self._threads = ThreadPoolExecutor(self._count)
        self._begun: dict[_Identity, Future[tuple[bytes, bytes | None]]] = {}
        self._of_thread = threading.local()
        self._children: list[_Child] = []

    def __enter__(self) -> Isolation:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()
        self._threads.shutdown()
        for child in self._children:
            child.end()

    def ahead(self, files: Iterable[Found], form_of: Callable[[Found], str], options: Options) -> Iterator[Found]:
        """The same files; while one is read, those that follow are tried. `form_of` says as what, or nothing."""
        if self._count == 1:
            yield from files
            return
        window: deque[tuple[Found, _Identity]] = deque()
        for found in files:
            form = "" if found.fleeting else form_of(found)
            place = _place_of(found.path) if form else ()
            if place:
                self._begun[place] = self._threads.submit(self._try, found.path, place, form, options)
            window.append((found, place))
            while window and (found.fleeting or len(window) > _FILES_AHEAD * self._count):
                yield from self._taken(*window.popleft())
        for one in window:
            yield from self._taken(*one)

    def rows(self, file: BinaryIO, size_bytes: int, form: str, options: Options) -> list[Row | Refusal]:
        """Read the file to its end in a child; its rows, if they hold a text only, and of a table none.

        RefusedError if the reader refuses it, dies of it, or takes longer than its size allows.
        """
        begun = self._begun.get(_identity(os.fstat(file.fileno()))) if self._begun else None
        digest, text = begun.result() if begun else (self._digest(file, form, options), None)

        def text_of_file(_: list[int]) -> list[bytes]:
            return [self._child().text(file, size_bytes, form, options) if text is None else text]

        [found] = text_of_file([0]) if self.memo is None else self.memo.values([digest], text_of_file)
        return [Row({"text": found.decode("utf-8", "surrogatepass")})] if _is_text(form) else []

    def _try(self, path: str, place: _Identity, form: str, options: Options) -> tuple[bytes, bytes | None]:
        """The file's digest, and its text where the memo does not have it."""
        from pipeline.sources.locations import OpenFile

        with OpenFile(path) as (file, looks):
            digest = self._digest(file, form, options)
            known = self.memo is not None and self.memo.known([digest]) != [None]
            if known or _identity(os.fstat(file.fileno())) != place:
                return digest, None
            return digest, self._child().text(file, looks.st_size, form, options)

    def _taken(self, found: Found, place: _Identity) -> Iterator[Found]:
        yield found
        self._begun.pop(place, None)

    def _digest(self, file: BinaryIO, form: str, options: Options) -> bytes:
        if self.memo is None:
            return b""
        from pipeline.sources.remembered import digest_of_file  # not at the top: the child has no use for it

        return digest_of_file(file, form, options)

    def _child(self) -> _Child:
        """The child of this thread."""
        if not hasattr(self._of_thread, "child"):
            self._of_thread.child = _Child(self._cpu_seconds)
            self._children.append(self._of_thread.child)
        child: _Child = self._of_thread.child
        return child


class _Child:
    """One process that files are tried in, begun when there is one to try, and anew when one was the end of it."""

    def __init__(self, cpu_seconds: float) -> None:
        self._cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def text(self, file: BinaryIO, size_bytes: int, form: str, options: Options) -> bytes:
        """The text of the file, which is read to its end; of a table nothing. RefusedError as in `Isolation.rows`."""
        rows = self._tried(file, size_bytes, form, options)
        return "".join(str(row["text"]) for row in rows).encode("utf-8", "surrogatepass")

    def kill(self) -> None:
        """Stop it from another thread, which then finds that it has ended."""
        if self._process is not None:
            self._process.kill()

    def _tried(self, file: BinaryIO, size_bytes: int, form: str, options: Options) -> list[dict[str, object]]:
        descriptor = file.fileno()
        os.lseek(descriptor, 0, os.SEEK_SET)
        connection = self._started()
        asked = asdict(options) | {"columns": sorted(options.columns) if options.columns is not None else None}
        seconds = self._cpu_seconds + size_bytes / BYTES_PER_SECOND
        asked_of_it = {"form": form, "options": asked, "size": size_bytes, "seconds": seconds}
        request = json.dumps(asked_of_it).encode()
        connection.settimeout(_WALL_FACTOR * seconds)
        try:
            socket.send_fds(connection, [len(request).to_bytes(4, "big") + request], [descriptor])
            answer = json.loads(_exactly(connection, int.from_bytes(_exactly(connection, 8), "big")))
        except TimeoutError:
            self.end()
            raise RefusedError(_TOO_LONG) from None
        except (OSError, EOFError):
            if self.end() == -signal.SIGXCPU:
                raise RefusedError(_TOO_LONG) from None
            raise RefusedError("is damaged so that its reader ends; make the file again") from None
        if "refused" in answer:
            raise RefusedError(answer["refused"], answer["offset"])
        rows: list[dict[str, object]] = answer["rows"]
        return rows

    def _started(self) -> socket.socket:
        if self._socket is None or self._process is None or self._process.poll() is not None:
            self.end()
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.sources.isolation", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # Arrow's last words, and pypdf's, may quote the file
                    env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(e or "." for e in sys.path)},
                )
            self._socket = ours
            ours.settimeout(_START_SECONDS)
            try:
                _exactly(ours, 1)  # it is ready: what follows is timed
            except (OSError, EOFError):
                self.end()
                raise InputOutputError("the process that tries files cannot be started; is memory left?") from None
        return self._socket

    def end(self) -> int | None:
        """Stop the child, if it runs; how it ended."""
        code = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            try:
                code = self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
            self._process = None
        return code


def _identity(found: os.stat_result) -> _Identity:
    """What tells a file from every other, and from what it was before."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _place_of(path: str) -> _Identity:
    """The identity of the file at a path, or nothing where none is."""
    try:
        return _identity(Path(path).lstat())
    except OSError:
        return ()


def _is_text(form: str) -> bool:
    from pipeline.sources.formats import FORMATS

    return not FORMATS[form].is_table


def _exactly(connection: socket.socket, count: int) -> bytes:
    whole = bytearray()
    while len(whole) < count:
        part = connection.recv(min(1 << 20, count - len(whole)))
        if not part:
            raise EOFError
        whole += part
    return bytes(whole)


def _serve(connection: socket.socket) -> None:
    """The child's loop: a request and a descriptor come in, an answer goes out, until the other end is closed."""
    import psutil

    from pipeline.sources.formats import FORMATS
    from pipeline.sources.rows import Budget

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    connection.sendall(b"!")
    while True:
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 1)
        if not head:
            return
        request = json.loads(_exactly(connection, int.from_bytes(head, "big")))
        columns = request["options"].pop("columns")
        options = Options(**request["options"], columns=None if columns is None else frozenset(columns))
        answer: dict[str, object] = {}
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        limit = math.ceil(time.process_time() + request["seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
        try:
            with os.fdopen(descriptors[0], "rb") as file:
                rows = FORMATS[request["form"]].read(file, options, Budget.of(request["size"]))
                answer = {"rows": [row.values for row in rows if _is_text(request["form"]) and isinstance(row, Row)]}
        except RefusedError as refusal:
            answer = {"refused": refusal.reason, "offset": refusal.offset}
        except Exception as error:
            answer = {"refused": f"is damaged ({type(error).__name__})", "offset": 0}
        content = json.dumps(answer).encode()
        connection.sendall(len(content).to_bytes(8, "big") + content)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
