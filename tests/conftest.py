"""What every test starts from: torch on one thread, its products exact; Ctrl-C heard; Prefect's tables, made once."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from flows import servers
from flows.project import STATE


def plain_torch() -> None:
    """Set what is the same for the whole process, and what training and evaluation change."""
    torch.set_num_threads(1)  # tests run side by side and would starve each other
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session", autouse=True)
def _plain_torch_at_first() -> None:
    plain_torch()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and so would all that the tests start be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _plain_torch_again() -> Iterator[None]:
    yield
    plain_torch()


@pytest.fixture(scope="session")
def lend_prefect_tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Gives a project Prefect's folder as a first start of its server leaves it, which spares a server seven seconds.

    The folder is made once for all workers of the tests; what starts on it is a server of the project's own.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    made = shared / "prefect-tables"
    with FileLock(shared / "prefect-tables.lock"):
        if not made.exists():
            first = tmp_path_factory.mktemp("first-start")
            servers.ensure(first, servers.PREFECT, print)
            servers.stop(first, servers.PREFECT)
            shutil.copytree(first / STATE / "prefect", made)

    def lend(project: Path) -> None:
        shutil.copytree(made, project / STATE / "prefect")

    return lend
