"""The same work on the same items gives the same results in the same order, whoever does it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.engine import make_ready, workers
from pipeline.errors import ConfigurationError, DataError, DependencyError, InputOutputError
from pipeline.params import Compute, build, cores


def compute(workers: int = 1, engine: str = "embedded") -> Compute:
    return Compute("cpu", 1, 30, engine=engine, workers=workers)


def squares() -> Callable[[int], int]:
    return lambda number: number * number


def refuse(number: int) -> int:
    if number == 3:
        raise DataError("the third is bad")
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def map_in_order(set_up: Callable[[], Callable[[int], int]], items: Iterable[int], how: Compute) -> Iterator[int]:
    """The results of one stream of items."""
    with workers(set_up, how) as ready:
        yield from ready.map(items)


def give(work: Callable[[int], int]) -> Callable[[int], int]:
    return work


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_items_order(processes: int) -> None:
    """Twenty items give their twenty results in order, for any number of processes, made ready or not."""
    make_ready(compute(processes), __name__)
    assert list(map_in_order(squares, range(20), compute(processes))) == [n * n for n in range(20)]


@pytest.mark.parametrize("processes", [1, 2])
def test_few_items_are_under_way(processes: int) -> None:
    """Items are asked for as results are taken, so that memory stays bounded."""
    asked = 0

    def items() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    results = map_in_order(squares, items(), compute(processes))
    next(results)
    assert asked <= 2 * processes + 1
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_workers_do_one_thing_after_another(processes: int) -> None:
    """The same workers take a second list of items when the first is done, which may be made of its results."""
    with workers(squares, compute(processes)) as ready:
        assert list(ready.map(list(ready.map(range(5))))) == [n**4 for n in range(5)]


def test_where_nothing_is_to_be_done_no_worker_starts() -> None:
    """A set-up that would fail is not called."""
    with workers(partial(refuse, 3), compute(2)) as ready:  # type: ignore[arg-type, type-var]
        assert list(ready.map([])) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_ours_comes_through(processes: int) -> None:
    """A DataError in a worker is that DataError here, after the results before it."""
    results = map_in_order(partial(give, refuse), range(6), compute(processes))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="the third is bad"):
        next(results)


def test_a_worker_that_dies_is_an_error_with_advice() -> None:
    """A worker killed by the system, say for want of memory, ends the work with 74."""
    with pytest.raises(InputOutputError, match=r"lower compute\.workers"):
        list(map_in_order(partial(give, die), range(3), compute(2)))


KILLED = """
import os
from pipeline.engine import workers
from pipeline.params import Compute
from tests.pipeline.test_engine import own_number

if __name__ == "__main__":
    with workers(own_number, Compute("cpu", 1, 30, workers=2)) as ready:
        print(*set(ready.map(range(20))), flush=True)
        os.kill(os.getpid(), 9)
"""


def own_number() -> Callable[[int], int]:
    def number_of_process(_: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    return number_of_process


def test_workers_end_with_the_process_that_started_them(python: Any, tmp_path: Path) -> None:
    """After kill -9 neither a worker nor the server that it was forked from is left."""
    (tmp_path / "killed.py").write_text(KILLED)
    done = python("killed.py", cwd=tmp_path)
    assert done.returncode == -9
    left = [psutil.Process(int(number)) for number in done.stdout.split() if psutil.pid_exists(int(number))]
    left += [process.parent() for process in left if process.parent() and process.parent().pid != 1]
    _, alive = psutil.wait_procs(left, timeout=20)
    assert done.stdout and alive == []


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for Ray where it is not installed is a DependencyError that says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"homegrown\[ray\]"):
        list(map_in_order(squares, range(3), compute(engine="ray")))


@pytest.mark.parametrize(
    ("asked_for", "megabytes", "given"),
    [(4, 0, 1), (4, 7, 3), (4, 100, 4), (1, 100, 1), (0, 1000, cores())],
)
def test_no_more_workers_than_there_is_work_for(asked_for: int, megabytes: int, given: int) -> None:
    """With 2 MB for each, few bytes get few workers, and many get those that were asked for; on Ray all are used."""
    assert compute(asked_for).sized(megabytes, 2).worker_count == given
    assert compute(asked_for, "ray").sized(megabytes, 2).workers == asked_for


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "spark"}, "engine is 'spark'; choose embedded or ray"),
        ({"address": "ray://host:10001"}, "address is of use with the engine ray only"),
        ({"processes": -1}, "workers and processes must be 0 or more"),
    ],
)
def test_a_wrong_engine_is_refused(changes: dict[str, object], said: str) -> None:
    """What cannot be is refused with what can."""
    with pytest.raises(ConfigurationError, match=said):
        build(Compute, {"device": "cpu", "threads": 0, "checkpoint_every_seconds": 30, **changes}, "compute")
