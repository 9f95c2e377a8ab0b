"""Goes in: a stage's name. Comes out: its lines as they are printed, and how it ended, with its own exit code.

The process is DVC's, in a session of its own: a Ctrl-C at the terminal reaches only us, and we tell the stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from flows.project import STATE
from pipeline import versioning
from pipeline.errors import BUG_EXIT_CODE, BY_EXIT_CODE, HomegrownError, TryAgainError

STOP_SECONDS = 60.0
LOGS = STATE / "logs"
_SHELLS = {"sh", "bash", "dash", "zsh", "ash", "ksh", "fish"}

# If we are killed, DVC must not go on alone: the kernel sends it SIGTERM when the thread that started it dies. The
# setting survives exec, so a few lines of Python set it and become DVC.
_TIE_TO_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class StoppedError(TryAgainError):
    """The stage was told to stop. `saved` says whether it kept what it had done, to go on from there."""

    def __init__(self, message: str, saved: bool) -> None:
        super().__init__(message)
        self.saved = saved


@dataclass(frozen=True)
class Ending:
    """How a stage ended."""

    ran: bool
    """Its command was run; otherwise DVC found it unchanged, or fetched its outputs from the cache."""
    error: HomegrownError | None


class StageProcess:
    """`dvc repro --single-item STAGE`, from its start to its end; for a stage that only looks, its command alone.

    Its log holds what it printed in one run: with `again`, below what an earlier attempt did.
    """

    def __init__(
        self,
        root: Path,
        stage: str,
        environment: Mapping[str, str],
        *,
        force: bool = False,
        look: str = "",
        again: bool = False,
    ) -> None:
        self.stage = stage
        self._again = again
        self._directly = bool(look)
        self._ran = self._directly
        self._exit: dict[str, Any] | None = None
        self._lines: list[str] = []
        self._stopped = threading.Event()
        self._log = root / LOGS / f"{stage.replace('@', '.')}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_shown = self._log.relative_to(root)
        command = versioning.look_command(look) if look else versioning.reproduce_command(stage, force)
        if sys.platform == "linux":
            command = [sys.executable, "-ISc", _TIE_TO_PARENT, str(os.getpid()), *command]
        self._process = subprocess.Popen(
            command,
            cwd=root,
            env={**versioning.reproduce_environment(), **environment, "HOMEGROWN_PROGRESS": "json"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        self._begun = time.monotonic()
        self.seconds = 0.0
        self._events: SimpleQueue[str | dict[str, Any] | None] = SimpleQueue()
        # Read from the start, so that a process nobody listens to yet is neither held up nor timed wrongly.
        threading.Thread(target=self._read, daemon=True).start()

    def events(self) -> Iterator[str | dict[str, Any]]:
        """Lines of text for people, and the fields of `@progress` lines, until all who write them are gone."""
        while (event := self._events.get()) is not None:
            yield event

    def wait(self) -> int:
        """Wait for the end; DVC's exit status, 0 if all went well. What was printed waits for `events`."""
        return self._process.wait()

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def end(self) -> Ending:
        """Wait for the end; call it when `events` is exhausted."""
        return self._ending(self._process.wait())

    def _read(self) -> None:
        try:
            for event in self._parsed():
                self._events.put(event)
        finally:
            self._process.wait()
            self.seconds = time.monotonic() - self._begun
            self._events.put(None)

    def _parsed(self) -> Iterator[str | dict[str, Any]]:
        """What the process prints, sorted; every line but the marked ones also goes to the stage's log file."""
        assert self._process.stdout
        previous = ""
        with self._log.open("a" if self._again else "w", encoding="utf-8") as log:
            if self._again:  # the error of the attempt before points to what that one wrote
                log.write(f"--- tried again at {time.strftime('%Y-%m-%d %H:%M:%S')} ---\n")
            for raw in self._process.stdout:
                line = raw.rstrip("\n")
                if fields := _marked(line, "@progress "):
                    yield fields
                    continue
                if fields := _marked(line, "@exit "):
                    self._exit = fields
                    continue
                log.write(raw)
                log.flush()
                self._lines = [*self._lines[-199:], line]
                if versioning.ran(self.stage, line):
                    self._ran = True
                is_command = line.startswith("> ") and versioning.ran(self.stage, previous)
                previous = line
                # What a stage says in ending is said once, by us, at the end.
                ending = line.startswith(("ERROR: failed to reproduce", "homegrown: "))
                chatter = is_command or ending or versioning.is_chatter(line)
                if not chatter and (self._ran or not self._stopped.is_set()):
                    yield line

    def _ending(self, status: int) -> Ending:
        if status == 0:
            return Ending(self._ran, None)
        code, error = versioning.failure(self.stage, self._lines, status, self._directly)
        told = str(self._exit.get("message", "")) if self._exit else ""
        if self._exit:
            code = int(self._exit.get("code", BUG_EXIT_CODE))
        if self._stopped.is_set():
            saved = code == TryAgainError.exit_code
            return Ending(self._ran, StoppedError(told or f"{self.stage}: stopped", saved))
        if told or code in BY_EXIT_CODE:
            message = told or f"{error}; its output is in {self._log_shown}"
            kind = BY_EXIT_CODE.get(code or BUG_EXIT_CODE, HomegrownError)
            return Ending(self._ran, kind(f"{self.stage}: {self._without_name(message)}"))
        if type(error) is HomegrownError:
            error = HomegrownError(f"{error}; its output is in {self._log_shown}")
        return Ending(self._ran, error)

    def stop(self, wait_seconds: float = STOP_SECONDS) -> None:
        """Ask the stage to save what it can and end; kill what is left of it after `wait_seconds`. Returns at the end.

        SIGTERM goes to the stage, SIGINT to DVC. While a stage runs DVC ignores SIGINT, and so lives to put its own
        files in order; killed, it may leave an empty dvc.lock. If the stage has ended, SIGINT ends DVC tidily.
        """
        import psutil

        self._stopped.set()
        if self.running and not self._directly:
            self._signal(self._process.pid, signal.SIGINT)
        asked: dict[int, Any] = {}
        deadline = time.monotonic() + wait_seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(self._process.pid)
                for process in _commands([top] if self._directly else top.children()):
                    if process.pid not in asked:
                        asked[process.pid] = process
                        self._signal(process.pid, signal.SIGTERM)
            if self._process.poll() is not None and not any(map(_running, asked.values())):
                break
            time.sleep(0.1)
        self.kill()

    def kill(self) -> None:
        """End the whole process group at once."""
        self._stopped.set()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _without_name(self, message: str) -> str:
        """A message without the stage's name in front, which may be that of the family."""
        for name in (self.stage, self.stage.split("@")[0]):
            if message.startswith(f"{name}: "):
                return message.removeprefix(f"{name}: ")
        return message

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _running(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _commands(processes: list[Any]) -> list[Any]:
    """The stage's own processes among these: a shell stands for what it has started. Workers below are their affair."""
    found: list[Any] = []
    for process in processes:
        below = process.children() if process.name() in _SHELLS else []
        found += below or [process]
    return found


def _marked(line: str, mark: str) -> dict[str, Any] | None:
    """The JSON object after a mark, or None if the line is not such a line."""
    if not line.startswith(mark):
        return None
    try:
        fields = json.loads(line.removeprefix(mark))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
