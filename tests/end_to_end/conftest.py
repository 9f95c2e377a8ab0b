"""Clones of the project: one in which the whole pipeline has run, shared by the tests that look, and fresh ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clone import Clone, clone_project

# Nothing can be reached from in there but loopback; the servers end with the command, being of no use outside.
ISOLATED = 'ip link set lo up && "$@"; code=$?; "$1" -m flows.cli ui --stop >&2; exit $code'


@pytest.fixture(scope="session")
def isolation() -> list[str]:
    """What to put before a command to run it in a network namespace of its own; nothing where that is not allowed."""
    command = ["unshare", "-rn", "sh", "-c"]
    allowed = (
        shutil.which("unshare") and not subprocess.run([*command, "ip link set lo up"], capture_output=True).returncode
    )
    return [*command, ISOLATED, "sh"] if allowed else []


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, isolation: list[str]) -> Iterator[Clone]:
    """A clone in which `homegrown run` has ended well. Tests may look, and run again, but must leave it finished."""
    clone = clone_project(tmp_path_factory.mktemp("finished"))
    done = clone.run(*isolation, sys.executable, "-m", "flows.cli", "run", "--json")
    (clone.root / "first_run.json").write_text(done.stdout, encoding="utf-8")
    clone.wait_for_delivery()
    yield clone
    clone.stop_servers()


@pytest.fixture
def clone(tmp_path: Path, lend_prefect_tables: Callable[[Path], None]) -> Iterator[Clone]:
    """A fresh clone in which nothing has run."""
    fresh = clone_project(tmp_path)
    lend_prefect_tables(fresh.root)
    yield fresh
    fresh.stop_servers()


@pytest.fixture
def copied(finished: Clone, tmp_path: Path, lend_prefect_tables: Callable[[Path], None]) -> Iterator[Clone]:
    """A copy of the finished clone without its servers, records and training states: what is not changed is cached."""
    root = tmp_path / "copied"
    left = shutil.ignore_patterns(".homegrown", "mlruns", "mlflow.db*", "scratch")
    shutil.copytree(finished.root, root, symlinks=True, ignore=left)
    lend_prefect_tables(root)
    copy = Clone(root)
    yield copy
    copy.stop_servers()
