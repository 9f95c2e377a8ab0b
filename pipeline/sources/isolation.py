"""Goes in: a file whose library may end its process or never return. Comes out: that it reads to its end, or why not.

Some damaged Parquet footers make Arrow abort, and some PDFs make their reader loop. One child process, kept for the
run, tries each such file first; if it dies or takes too long, the file is refused and the next one gets a new child.
The file goes over as an open descriptor, so the child opens no path of its own.
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
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO

from pipeline.errors import InputOutputError
from pipeline.sources.rows import Options, Refusal, RefusedError, Row

if TYPE_CHECKING:
    from pipeline.memo import Memo

CPU_SECONDS = 10.0
BYTES_PER_SECOND = 1 << 20  # a slow PDF; a table is a hundred times faster
# A damaged length makes Arrow ask for, and clear, gigabytes; a sound file is read a page or two at a time.
MEMORY_BYTES = 2 << 30
# On a machine of a hundred cores the stacks of NumPy's idle threads alone would use that memory up.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# What counts is the CPU's time, so that a busy machine refuses the same files; a reader that sleeps meets the clock.
_WALL_FACTOR = 6
_START_SECONDS = 60.0
_TOO_LONG = "takes too long to read, as a damaged or hostile file does"


class Isolation:
    """The child process that files are tried in; a context that ends it. What `memo` knows is not tried again."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS, memo: Memo | None = None) -> None:
        self._cpu_seconds = cpu_seconds
        self.memo = memo
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Isolation:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def rows(self, file: BinaryIO, size_bytes: int, form: str, options: Options, *, keep: bool) -> list[Row | Refusal]:
        """Read the file to its end in the child; with `keep`, its rows, which then hold a text only.

        RefusedError if the reader refuses it, dies of it, or takes longer than its size allows.
        """

        def text_of_file(_: list[int]) -> list[bytes]:
            texts = [str(row["text"]) for row in self._tried(file, size_bytes, form, options, keep=keep)]
            return ["".join(texts).encode("utf-8", "surrogatepass")]

        if self.memo is None:
            [text] = text_of_file([0])
        else:
            from pipeline.sources.remembered import digest_of_file  # not at the top: the child has no use for it

            [text] = self.memo.values([digest_of_file(file, form, options)], text_of_file)
        return [Row({"text": text.decode("utf-8", "surrogatepass")})] if keep else []

    def _tried(
        self, file: BinaryIO, size_bytes: int, form: str, options: Options, *, keep: bool
    ) -> list[dict[str, object]]:
        descriptor = file.fileno()
        os.lseek(descriptor, 0, os.SEEK_SET)
        connection = self._started()
        asked = asdict(options) | {"columns": sorted(options.columns) if options.columns is not None else None}
        seconds = self._cpu_seconds + size_bytes / BYTES_PER_SECOND
        asked_of_it = {"form": form, "options": asked, "size": size_bytes, "keep": keep, "seconds": seconds}
        request = json.dumps(asked_of_it).encode()
        connection.settimeout(_WALL_FACTOR * seconds)
        try:
            socket.send_fds(connection, [len(request).to_bytes(4, "big") + request], [descriptor])
            answer = json.loads(_exactly(connection, int.from_bytes(_exactly(connection, 8), "big")))
        except TimeoutError:
            self._end()
            raise RefusedError(_TOO_LONG) from None
        except (OSError, EOFError):
            if self._end() == -signal.SIGXCPU:
                raise RefusedError(_TOO_LONG) from None
            raise RefusedError("is damaged so that its reader ends; make the file again") from None
        if "refused" in answer:
            raise RefusedError(answer["refused"], answer["offset"])
        rows: list[dict[str, object]] = answer["rows"]
        return rows

    def _started(self) -> socket.socket:
        if self._socket is None or self._child is None or self._child.poll() is not None:
            self._end()
            ours, theirs = socket.socketpair()
            with theirs:
                self._child = subprocess.Popen(
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
                self._end()
                raise InputOutputError("the process that tries files cannot be started; is memory left?") from None
        return self._socket

    def _end(self) -> int | None:
        """Stop the child, if it runs; how it ended."""
        code = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            try:
                code = self._child.wait(0.5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                code = self._child.wait()
            self._child = None
        return code


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
                answer = {"rows": [row.values for row in rows if request["keep"] and isinstance(row, Row)]}
        except RefusedError as refusal:
            answer = {"refused": refusal.reason, "offset": refusal.offset}
        except Exception as error:
            answer = {"refused": f"is damaged ({type(error).__name__})", "offset": 0}
        content = json.dumps(answer).encode()
        connection.sendall(len(content).to_bytes(8, "big") + content)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
