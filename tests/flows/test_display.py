"""What a run shows: lines in a pipe, bars on a terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from flows.display import LiveDisplay, PlainDisplay, choose


def tell(display: LiveDisplay | PlainDisplay) -> None:
    """A small run: one stage cached, one with progress and a line, one that fails."""
    display.planned(["read", "train", "serve"])
    display.ended("read", "cached", 0.0)
    display.started("train")
    display.line("train", "loss [3.21]")
    display.progress("train", {"done": 1200, "total": 3000, "unit": "steps", "note": "loss 3.21"})
    display.notice("a word about the run")
    display.ended("train", "done", 3.14)
    display.started("serve")
    display.ended("serve", "failed", 0.5, "no port")
    display.close()


def test_pipe_gets_one_line_per_event() -> None:
    """Off a terminal the story is told in plain lines, without colours."""
    stream = io.StringIO()
    tell(PlainDisplay(stream))
    assert stream.getvalue().splitlines() == [
        "read: cached",
        "train: running",
        "train | loss [3.21]",
        "train | 1,200/3,000 steps · loss 3.21",
        "a word about the run",
        "train: done in 3.1 s",
        "serve: running",
        "serve: failed: no port",
    ]


def test_terminal_keeps_a_line_per_stage() -> None:
    """On a terminal every stage has its line, which ends as what became of it; what stages print stands above."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    tell(LiveDisplay(console))
    text = stream.getvalue()
    assert "train loss [3.21]" in text
    drawn = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text.rsplit("a word about the run", 1)[1]).splitlines()
    last = [" ".join(re.sub("[━╸╺]", "", line).split()) for line in drawn if line.strip()][-3:]
    assert last == ["✓ read cached", "✓ train done in 3.1 s", "✗ serve failed"]


def test_display_is_chosen_by_where_it_goes(capsys: object) -> None:
    """What is no terminal gets plain lines."""
    assert isinstance(choose(), PlainDisplay)
