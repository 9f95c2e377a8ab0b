"""Goes in: what happens to each stage. Comes out: one line per stage that keeps itself up to date, or plain lines.

On a terminal the stages stand below each other with bars, and what they print scrolls past above. Elsewhere each event
is one line, so that a log file reads as a story.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

PLAIN_PROGRESS_SECONDS = 10.0
_MARKS = {"cached": "✓", "done": "✓", "failed": "✗", "stopped": "■", "not run": "·"}
_STYLES = {"cached": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow", "not run": "dim"}


class Display(Protocol):
    """What a run shows while it works."""

    def planned(self, stages: Sequence[str]) -> None:
        """The stages of the run, in order."""

    def started(self, stage: str) -> None:
        """A stage is at work."""

    def line(self, stage: str, text: str) -> None:
        """A stage printed a line."""

    def progress(self, stage: str, fields: Mapping[str, Any]) -> None:
        """A stage says how far it is: done, total, unit, note."""

    def ended(self, stage: str, state: str, seconds: float, message: str = "") -> None:
        """A stage is cached, done, failed, stopped or not run."""

    def notice(self, text: str) -> None:
        """A line about the run as a whole."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainDisplay:
    """One line per event, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._next_progress: dict[str, float] = {}

    def planned(self, stages: Sequence[str]) -> None:
        """Nothing: the lines that follow say it."""

    def started(self, stage: str) -> None:
        """`stage: running`."""
        self._print(f"{stage}: running")

    def line(self, stage: str, text: str) -> None:
        """The line, with its stage in front."""
        self._print(f"{stage} | {text}")

    def progress(self, stage: str, fields: Mapping[str, Any]) -> None:
        """A line now and then, and one at the end."""
        now, total = time.monotonic(), fields.get("total")
        last = total is not None and fields.get("done") == total
        if last or now >= self._next_progress.get(stage, 0.0):
            self._next_progress[stage] = now + PLAIN_PROGRESS_SECONDS
            self._print(f"{stage} | {_progress_text(fields)}")

    def ended(self, stage: str, state: str, seconds: float, message: str = "") -> None:
        """`stage: done in 3.1 s`, or `stage: failed: why`."""
        took = f" in {seconds:.1f} s" if state == "done" else ""
        why = f": {message.removeprefix(f'{stage}: ')}" if message and state == "failed" else ""
        self._print(f"{stage}: {state}{took}{why}")

    def notice(self, text: str) -> None:
        """The line as it is."""
        self._print(text)

    def close(self) -> None:
        """Nothing to undo."""

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)


class LiveDisplay:
    """A line per stage at the bottom of the terminal: waiting, a bar while it runs, then how it ended."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.fields[mark]}", markup=True),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=True),
            console=self._console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._since: dict[str, float] = {}

    def planned(self, stages: Sequence[str]) -> None:
        """Draw the stages, all waiting."""
        width = max((len(stage) for stage in stages), default=0)
        for stage in stages:
            self._tasks[stage] = self._progress.add_task(
                stage.ljust(width), total=1, start=False, mark=" ", state="[dim]waiting"
            )
        self._progress.start()

    def started(self, stage: str) -> None:
        """A moving bar until the stage says how far it is."""
        self._since[stage] = time.monotonic()
        self._progress.update(self._tasks[stage], total=None, mark=">", state="running")
        self._progress.start_task(self._tasks[stage])

    def line(self, stage: str, text: str) -> None:
        """The line, above the stages."""
        from rich.text import Text

        self._progress.console.print(Text.assemble((f"{stage} ", "dim"), text))

    def progress(self, stage: str, fields: Mapping[str, Any]) -> None:
        """The bar, and what the stage has to add."""
        from rich.markup import escape

        self._progress.update(
            self._tasks[stage],
            completed=float(fields.get("done") or 0),
            total=float(fields.get("total") or 0) or None,
            state=escape(_progress_text(fields)),
        )

    def ended(self, stage: str, state: str, seconds: float, message: str = "") -> None:
        """A full bar and the time it took, or an empty one and why."""
        full = state in ("cached", "done")
        text = f"done in {seconds:.1f} s" if state == "done" else state
        self._progress.update(
            self._tasks[stage],
            total=1,
            completed=1 if full else 0,
            mark=f"[{_STYLES[state]}]{_MARKS[state]}",
            state=f"[{_STYLES[state]}]{text}",
        )
        self._progress.stop_task(self._tasks[stage])
        if message and state == "failed":
            self._progress.console.print(message, style="red", markup=False, highlight=False)

    def notice(self, text: str) -> None:
        """A line above the stages."""
        self._progress.console.print(text, style="dim", markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()


def choose(to_stderr: bool = False) -> Display:
    """A live display on a terminal, plain lines elsewhere; on stderr where stdout belongs to JSON."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        from rich.console import Console

        console = Console(file=stream)
        if not console.is_dumb_terminal:
            return LiveDisplay(console)
    return PlainDisplay(stream)


def _progress_text(fields: Mapping[str, Any]) -> str:
    done, total, unit, note = (fields.get(key) for key in ("done", "total", "unit", "note"))
    count = f"{done:,}/{total:,} {unit or ''}".strip() if isinstance(done, int) and isinstance(total, int) else ""
    return " · ".join(part for part in (count, str(note or "")) if part)
