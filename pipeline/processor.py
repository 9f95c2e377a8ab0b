"""Goes in: a stage that is about to compute. Comes out: its turn; stages side by side compute one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from pipeline.report import Report
from pipeline.tracking.spool import STATE

LOCK = STATE / "locks" / "processor.lock"


@contextmanager
def processor(report: Report) -> Iterator[None]:
    """Within the block no other stage of this project trains or evaluates; the lock of a stage that dies is free.

    Two trainings do not share cores: each one's threads wait for one another at every matrix product, and whenever one
    of them is not on a core all do. Side by side, with two threads each on two cores, a step took 0.9 to 1.7 s, and
    0.36 s alone (AMD EPYC, Zen 4). On a GPU the memory would not suffice for both. The processes of one training share
    a turn, which the first of them takes.
    """
    if int(os.environ.get("RANK", 0)):
        yield
        return
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.note("waiting for another stage to leave the processor")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
