"""Goes in: work to set up, items, and where to compute. Comes out: the work done on each item, in the items' order.

This process, several, or a Ray cluster: the results and their order are the same, so what is made of them has equal
bytes wherever it was made. At most two items per worker are under way, which bounds the memory. ray's only home.

Embedded means processes and no data engine: the time goes into encoding, and Daft 0.7, which would run the same plan on
Ray, takes Arrow tables only and holds tqdm below a version that others here need.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DependencyError, InputOutputError
from pipeline.params import Compute

T = TypeVar("T")
R = TypeVar("R")

_ITEMS_PER_WORKER = 2
_work: Callable[[Any], Any]


def make_ready(compute: Compute, *modules: str) -> None:
    """Begin to load what workers will need, in the background, before there is work to give them.

    It is loaded once, in the fork server, and every worker is born with it.
    """
    if compute.engine != "ray" and compute.process_count > 1:
        forkserver.set_forkserver_preload(["__main__", *modules])
        forkserver.ensure_running()


def map_in_order(set_up: Callable[[], Callable[[T], R]], items: Iterable[T], compute: Compute) -> Iterator[R]:
    """`set_up()` is called once per worker, and what it returns once per item; everything must pickle.

    An error of ours raised in a worker is raised here. InputOutputError if a worker dies, DependencyError if ray is
    not installed or no cluster answers.
    """
    if compute.engine == "ray":
        yield from _on_ray(set_up, items, compute)
    elif compute.process_count == 1:
        yield from map(set_up(), items)
    else:
        yield from _in_processes(set_up, items, compute.process_count)


def _in_processes(set_up: Callable[[], Callable[[T], R]], items: Iterable[T], processes: int) -> Iterator[R]:
    # Forking this process would copy locks that threads of Arrow may hold; the fork server has none.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, context, _begin_work, (set_up,)) as pool:
        try:
            submit: Callable[[T], Future[R]] = lambda item: pool.submit(_do_work, item)  # noqa: E731
            yield from _in_order(submit, Future.result, items, processes * _ITEMS_PER_WORKER)
        except BrokenProcessPool as error:
            raise InputOutputError(
                "a worker process died, most likely for want of memory; lower compute.processes and run again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_work(set_up: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    if sys.platform == "linux":
        # The fork server ends with the process that started it, and this worker with the fork server.
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _work = set_up()


def _do_work(item: Any) -> Any:
    return _work(item)


def _on_ray(set_up: Callable[[], Callable[[T], R]], items: Iterable[T], compute: Compute) -> Iterator[R]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise DependencyError("compute.engine is ray, which is not installed: pip install 'homegrown[ray]'") from error
    ours = not ray.is_initialized()
    try:
        if ours:
            # Without an address ray starts a cluster of its own on this machine. The nodes are sent our code.
            code = {"py_modules": [str(Path(__file__).parent)]}
            ray.init(address=compute.address or "local", runtime_env=code, log_to_driver=False)
        workers = compute.processes or int(ray.cluster_resources()["CPU"])
        worker = ray.remote(num_cpus=1)(_Worker)
        actors = [worker.remote(set_up) for _ in range(workers)]
    except (ConnectionError, OSError, RuntimeError, KeyError) as error:
        raise DependencyError(f"no Ray cluster answers at {compute.address!r}; see compute.address") from error
    turn = iter(range(sys.maxsize))
    try:
        yield from _in_order(
            lambda item: actors[next(turn) % workers].do.remote(item), ray.get, items, workers * _ITEMS_PER_WORKER
        )
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise InputOutputError("a worker of the Ray cluster died; look at the cluster's log and run again") from error
    finally:
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()


class _Worker:
    """What lives on the cluster."""

    def __init__(self, set_up: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = set_up()

    def do(self, item: Any) -> Any:
        return self._work(item)


def _in_order(
    submit: Callable[[T], Any], result: Callable[[Any], R], items: Iterable[T], most_under_way: int
) -> Iterator[R]:
    """The items' results in order, while later ones are already being worked on."""
    under_way: deque[Any] = deque()
    for item in items:
        if len(under_way) == most_under_way:
            yield result(under_way.popleft())
        under_way.append(submit(item))
    while under_way:
        yield result(under_way.popleft())
