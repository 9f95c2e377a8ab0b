"""Goes in: a stage that is about to compute. Comes out: its turn, and the CPU threads to compute with.

Two trainings do not share cores: each one's threads wait for one another at every matrix product, and whenever one of
them is not on a core all do. Side by side, with two threads each on two cores, a step took 0.9 to 1.7 s, and 0.36 s
alone (AMD EPYC, Zen 4). So a stage takes the whole processor, or, if its model is small, one half of it: a second core
makes a step of the default model 1.4 to 1.5 times as fast, and two stages on a core each get twice as much done.
How many threads it is depends on nothing that happens, since other threads may give other bits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from filelock import FileLock, Timeout

from pipeline.params import Compute, cores
from pipeline.report import Report
from pipeline.tracking.spool import STATE

HALVES = 2
SMALL_MODEL_PARAMETERS = 5_000_000
_LOCKS = [STATE / "locks" / f"processor-{number}.lock" for number in range(HALVES)]
_POLL_SECONDS = 0.2


def fits_a_half(n_parameters: int, device_type: str, compute: Compute) -> bool:
    """Whether a stage should take half of the processor: its model is small, and the threads asked for fit there."""
    half = cores() // HALVES
    return n_parameters < SMALL_MODEL_PARAMETERS and device_type == "cpu" and 1 <= (compute.threads or half) <= half


@contextmanager
def processor(report: Report, compute: Compute, *, half: bool = False) -> Iterator[int]:
    """Within the block nobody else computes in this project on the cores that it has; it gives the number of threads.

    On a GPU the memory would not suffice for two, so that takes the whole. The processes of one training share a turn,
    which the first of them takes. The locks of a stage that dies are free.
    """
    threads = compute.threads or (cores() // HALVES if half else cores())
    if int(os.environ.get("RANK", 0)):
        yield threads
        return
    _LOCKS[0].parent.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(path) for path in _LOCKS]
    with ExitStack() as held:
        if half:
            held.enter_context(_any_of(locks, report))
        else:
            # In this order always, so that no two wait for each other.
            for lock in locks:
                held.enter_context(_any_of([lock], report))
        yield threads


def _any_of(locks: list[FileLock], report: Report) -> AbstractContextManager[Any]:
    """The first of the locks to be free, taken: a block to leave it with."""
    waiting = False
    while True:
        for lock in locks:
            try:
                return lock.acquire(timeout=0)
            except Timeout:
                continue
        if not waiting:
            report.note("waiting for another stage to leave the processor")
            waiting = True
        time.sleep(_POLL_SECONDS)
