"""Goes in: a process's number. Comes out: whether it is still the very process that was meant, and where it listens."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def birth(pid: int) -> str | None:
    """When the process was born, in a clock that no correction of the time moves; None if it is gone or a zombie.

    A number is given again to another process one day; number and birth together name one process for good.
    """
    try:
        # The name, in brackets, may hold anything; after it stand the state and, 19 fields on, the start in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _birth_elsewhere(pid)
    if fields[0] in "ZX":
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return None
    return f"tick {fields[19]}"


def _birth_elsewhere(pid: int) -> str | None:
    """The same where there is no /proc, by the wall clock."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"second {process.create_time():.0f}"
    except psutil.Error:
        return None


def listens(pid: int, port: int) -> bool:
    """Whether the process, or one that it has started, listens on this port."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return False
    for member in family:
        with contextlib.suppress(psutil.Error):
            for connection in member.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False
