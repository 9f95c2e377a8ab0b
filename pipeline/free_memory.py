"""Goes in: nothing. Comes out: how many bytes this process may still take of the machine's memory.

That is the least of what the machine has, what its control groups leave it (a container's limit), and what its address
space may grow by.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

# Where a version of control groups lies, and its files: the limit, what is taken, and the line in memory.stat that says
# how much of that is a cache of files, which makes room.
_VERSIONS = {
    "": (("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max", "memory.current", "inactive_file"),
    "memory": (
        ("sys/fs/cgroup/memory",),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def free_memory(system: Path = Path("/")) -> int:
    """Bytes; `system` is the folder that /proc and /sys are read in."""
    import psutil

    known = [int(psutil.virtual_memory().available), *_left_by_control_groups(system)]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        known.append(limit - int(psutil.Process().memory_info().vms))
    return max(0, min(known))


def _left_by_control_groups(system: Path) -> Iterator[int]:
    """What each of the process's groups, and those that they are in, leaves."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        kind = "memory" if "memory" in controllers.split(",") else controllers
        mounts, limit, taken, cached = _VERSIONS.get(kind, ((), "", "", ""))
        for mount in mounts:
            inner = Path(path.lstrip("/"))
            # In a container the path is often that of the machine, where the container sees its own group at the top.
            for group in (system / mount / part for part in (inner, *inner.parents)):
                try:
                    most = int((group / limit).read_text())
                    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    yield most - int((group / taken).read_text()) + int(stat.get(cached, 0))
                except (OSError, ValueError):
                    continue  # no such group, or `max`: it has no limit
