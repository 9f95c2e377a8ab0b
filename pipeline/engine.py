"""Goes in: work to set up, items, and where to compute. Comes out: the work done on each item, in the items' order.

This process, several, or a Ray cluster: the results and their order are the same, so what is made of them has equal
bytes wherever it was made. At most two items per worker are under way, which bounds the memory. ray's only home.

Embedded means processes and no data engine: the time goes into rules and encoding, and Daft 0.7, which would run the
same plan on Ray, takes Arrow tables only and holds tqdm below a version that others here need.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.errors import DependencyError, InputOutputError
from pipeline.params import Compute

T = TypeVar("T")
R = TypeVar("R")

_ROOT = Path(__file__).resolve().parent.parent

_ITEMS_PER_WORKER = 2
_work: Callable[[Any], Any]


def make_ready(compute: Compute, *modules: str) -> None:
    """Begin to load what workers will need, in the background, before there is work to give them.

    It is loaded once, in the fork server, and every worker is born with it.
    """
    if compute.engine != "ray" and compute.worker_count > 1:
        forkserver.set_forkserver_preload(["__main__", *modules])
        forkserver.ensure_running()


@dataclass(frozen=True)
class Workers(Generic[T, R]):
    """Workers that are ready, made by `workers`."""

    _submit: Callable[[T], Any]
    _result: Callable[[Any], R]
    _most_under_way: int

    def map(self, items: Iterable[T]) -> Iterator[R]:
        """The result of each item, in order, while later ones are already being worked on."""
        return map(self._result, self._ahead(items))

    def _ahead(self, items: Iterable[T]) -> Iterator[Any]:
        # No result is held here while the next one is worked out: only what leads to it, and that is let go first.
        under_way: deque[Any] = deque()
        for item in items:
            under_way.append(self._submit(item))
            if len(under_way) == self._most_under_way:
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()


@contextmanager
def workers(set_up: Callable[[], Callable[[T], R]], compute: Compute) -> Iterator[Workers[T, R]]:
    """`set_up()` is called once per worker, and what it returns once per item; all must pickle.

    An error of ours raised in a worker is raised here. InputOutputError if a worker dies, DependencyError if ray is
    not installed or no cluster answers.
    """
    if compute.engine == "ray":
        with _on_ray(set_up, compute) as ready:
            yield ready
    elif compute.worker_count == 1:
        yield Workers(set_up(), lambda result: result, 1)
    else:
        with _in_processes(set_up, compute.worker_count) as ready:
            yield ready


@contextmanager
def _in_processes(set_up: Callable[[], Callable[[T], R]], count: int) -> Iterator[Workers[T, R]]:
    # Forking this process would copy locks that threads of Arrow may hold; the fork server has none.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, context, _begin_work, (set_up,)) as pool:
        try:
            yield Workers(lambda item: pool.submit(_do_work, item), Future.result, count * _ITEMS_PER_WORKER)
        except BrokenProcessPool as error:
            raise InputOutputError(
                "a worker process died, most likely for want of memory; lower compute.workers and run again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_work(set_up: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    # If the process that gives it work were killed, it would wait for ever, and the fork server for it.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _work = set_up()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do_work(item: Any) -> Any:
    return _work(item)


@contextmanager
def _on_ray(set_up: Callable[[], Callable[[T], R]], compute: Compute) -> Iterator[Workers[T, R]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise DependencyError("compute.engine is ray, which is not installed: pip install 'homegrown[ray]'") from error
    ours = not ray.is_initialized()
    try:
        if ours:
            # Without an address ray starts a cluster of its own on this machine. The nodes are sent our code.
            code = {"py_modules": [str(_ROOT / package) for package in ("pipeline", "model")]}
            ray.init(address=compute.address or "local", runtime_env=code, log_to_driver=False)
        count = compute.workers or int(ray.cluster_resources()["CPU"])
        worker = ray.remote(num_cpus=1)(_Worker)
        actors = [worker.remote(set_up) for _ in range(count)]
    except (ConnectionError, OSError, RuntimeError, KeyError) as error:
        raise DependencyError(f"no Ray cluster answers at {compute.address!r}; see compute.address") from error
    turn = cycle(actors)
    try:
        yield Workers(lambda item: next(turn).do.remote(item), ray.get, count * _ITEMS_PER_WORKER)
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
