"""What every test starts from: torch on one thread, products exact, Ctrl-C heard; what is made once for all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: what the tests state of bits and seconds is of a CPU

import pytest
import torch
from filelock import FileLock

from flows.project import STATE

ROOT = Path(__file__).parent.parent


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


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Gives the folder of a name as a function fills it: once for all workers of the tests, who must not change it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base

    def fill(name: str, make: Callable[[Path], None]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                draft = tmp_path_factory.mktemp(name)
                make(draft)
                draft.rename(shared / name)
        return shared / name

    return fill


@pytest.fixture(scope="session")
def databases(once: Once) -> Path:
    """A folder as the set-up of a clone leaves it: with the tables of both databases."""

    def set_up(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "flows.databases", folder], cwd=ROOT, check=True)

    return once("databases", set_up)


@pytest.fixture(scope="session")
def lend_prefect_tables(databases: Path) -> Callable[[Path], None]:
    """Gives a project Prefect's folder as the set-up leaves it, which spares a server seven seconds.

    What starts on it is a server of the project's own.
    """

    def lend(project: Path) -> None:
        shutil.copytree(databases / STATE / "prefect", project / STATE / "prefect")

    return lend


@pytest.fixture(scope="session")
def own_file_system() -> None:
    """Skips where a test cannot mount a small file system that nobody else sees."""
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system does not allow a file system of one's own (unshare -rm)")
