"""What a stage may say while it works, and who listens: the terminal, the flow's display, the tracking spool."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PLAIN_LINE_SECONDS = 10.0
MARKED_LINE_SECONDS = 0.25

T = TypeVar("T")


class Report(Protocol):
    """What a stage may say. Nothing said here changes what the stage writes."""

    def note(self, text: str) -> None:
        """A line for the person who watches."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers for the run's record; with `step`, a point of each one's curve."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """How far the work is; `note` is what else is worth watching, such as the loss."""

    def keep(self, path: Path, folder: str = "") -> None:
        """A file or folder to keep with the run's record, such as a picture, a report or samples."""


class Sink(Protocol):
    """Where a run's record goes; the tracking spool is one."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers."""

    def keep(self, path: Path, folder: str = "") -> None:
        """Record a file."""


class StageReport:
    """Reports to the terminal and to a sink.

    On a terminal, progress is a bar. Elsewhere it is a plain line every ten seconds. Under the flow, which sets
    HOMEGROWN_PROGRESS=json, it is a marked line that the flow's display reads and its log leaves out.
    """

    def __init__(self, stage: str, sink: Sink | None = None) -> None:
        self._stage = stage
        self._sink = sink
        self._marked = os.environ.get("HOMEGROWN_PROGRESS") == "json"
        self._console = Console(soft_wrap=True)
        self._bar: tuple[Progress, TaskID] | None = None
        self._next_line = 0.0

    def note(self, text: str) -> None:
        """Print one line."""
        if self._bar:
            self._bar[0].console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Hand numbers to the sink."""
        if self._sink:
            self._sink.metrics(values, step)

    def keep(self, path: Path, folder: str = "") -> None:
        """Hand a file to the sink."""
        if self._sink:
            self._sink.keep(path, folder)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Draw the bar, or print a line if it is time for one; the last step always shows."""
        now = time.monotonic()
        last = done >= total
        if self._marked:
            if last or now >= self._next_line:
                self._next_line = now + MARKED_LINE_SECONDS
                fields = {"stage": self._stage, "done": done, "total": total, "unit": unit, "note": note}
                print(f"@progress {json.dumps(fields)}", flush=True)
        elif self._console.is_terminal:
            self._draw(done, total, unit, note)
        elif last or now >= self._next_line:
            self._next_line = now + PLAIN_LINE_SECONDS
            print(f"{self._stage}: {done:,}/{total:,} {unit}{' · ' + note if note else ''}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar[0].stop()
            self._bar = None

    def _draw(self, done: int, total: int, unit: str, note: str) -> None:
        if self._bar is None:
            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} · {task.fields[note]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            bar.start()
            self._bar = (bar, bar.add_task(self._stage, total=total, unit=unit, note=note))
        bar, task = self._bar
        bar.update(task, completed=done, total=total, unit=unit, note=note)
        if done >= total:
            self.close()


class SilentReport:
    """Says nothing: for tests and for code that calls a stage for its files alone."""

    def note(self, text: str) -> None:
        """Ignored."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Ignored."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Ignored."""

    def keep(self, path: Path, folder: str = "") -> None:
        """Ignored."""


def counted(items: Iterable[T], report: Report, total: int, unit: str, note: Callable[[], str] = str) -> Iterator[T]:
    """The same items, with progress reported as they pass."""
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        if done % 256 == 0:
            report.progress(done, total, unit, note())
    report.progress(max(done, total), max(done, total), unit, note())


def exit_line(code: int, message: str) -> None:
    """Tell the flow, which sees only DVC's exit status, how the stage really ended."""
    if os.environ.get("HOMEGROWN_PROGRESS") == "json":
        fields: dict[str, Any] = {"code": code, "message": message}
        print(f"@exit {json.dumps(fields)}", flush=True)
        sys.stdout.flush()
