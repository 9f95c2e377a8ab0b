"""A small real project (git, DVC, five stages that copy text) and one real Prefect server for all tests here."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pytest

from flows import servers

REPOSITORY = Path(__file__).resolve().parents[2]

DVC_YAML = """\
stages:
  read:
    cmd: exec python stage.py read in.txt read.out
    deps: [in.txt]
    outs: [read.out]
  upper:
    cmd: exec python stage.py upper read.out upper.out
    deps: [read.out]
    outs: [upper.out]
  count:
    foreach: [x, y]
    do:
      cmd: exec python stage.py count@${item} read.out count.${item}.out
      deps: [read.out]
      outs: ["count.${item}.out"]
  publish:
    cmd: exec python stage.py publish upper.out
    deps: [upper.out, count.x.out, count.y.out]
    always_changed: true
"""

# A stage notes in runs.log that it ran, and does what behave/NAME says: sleep, fail, save on SIGTERM.
STAGE_PY = """\
import json, os, pathlib, signal, sys, time
name, source, *outputs = sys.argv[1:]
behave = pathlib.Path("behave", name)
behave = json.loads(behave.read_text()) if behave.exists() else {}
def leave(code, message=""):
    if message:
        print("@exit " + json.dumps({"code": code, "message": message}), flush=True)
    os._exit(code)
if behave.get("saves"):
    signal.signal(signal.SIGTERM, lambda *_: leave(75, name + ": saved at step 7"))
with open("runs.log", "a") as log:
    log.write(name + "\\n")
pathlib.Path("pid." + name).write_text(str(os.getpid()))
print("hello from", name, flush=True)
print('@progress {"stage": "%s", "done": 1, "total": 2, "unit": "lines", "note": "half"}' % name, flush=True)
time.sleep(behave.get("sleep", 0))
if "exit" in behave:
    leave(behave["exit"], behave.get("message", ""))
text = pathlib.Path(source).read_text()
for output in outputs:
    pathlib.Path(output).write_text(name + " " + text)
"""


@dataclass(frozen=True)
class Project:
    """A small project in a temporary folder."""

    root: Path
    server: servers.Server | None

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        (self.root / name).write_text(text, encoding="utf-8")

    def behave(self, stage: str, **how: Any) -> None:
        """Make a stage sleep, fail or save when it is stopped."""
        (self.root / "behave").mkdir(exist_ok=True)
        self.write(f"behave/{stage}", json.dumps(how))

    def ran(self) -> list[str]:
        """The stages that have run since the last question, sorted."""
        log = self.root / "runs.log"
        names = sorted(log.read_text().split()) if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the `homegrown` command."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def homegrown(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `homegrown` command in this process, which spares Prefect's import: its exit code and what it printed."""
        from flows import cli

        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.execute(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def run(self, *arguments: str) -> dict[str, Any]:
        """`homegrown run --json`, as its object."""
        done = self.homegrown("run", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run DVC itself."""
        command = [sys.executable, "-Pm", "dvc", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment(), capture_output=True, text=True, check=False)

    def wait_for(self, name: str, timeout: float = 60) -> Path:
        """Wait until a file of the project is there."""
        path = self.root / name
        deadline = time.monotonic() + timeout
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < deadline, f"{name} did not appear"
            time.sleep(0.05)
        return path

    def flow_runs(self) -> list[dict[str, Any]]:
        """Prefect's flow runs, the latest first."""
        return self.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 20})

    def wait_for_flow_run(self, state: str, timeout: float = 60) -> dict[str, Any]:
        """The latest of Prefect's flow runs, once it is in this state."""
        deadline = time.monotonic() + timeout
        while not (runs := self.flow_runs()) or runs[0]["state_name"] != state:
            assert time.monotonic() < deadline, f"no flow run is {state}"
            time.sleep(0.05)
        return runs[0]

    def task_states(self, flow_run_id: str, expected: int) -> dict[str, str]:
        """The state names of a flow run's tasks, once Prefect's recorder has got hold of all of them."""
        states: dict[str, str] = {}
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            runs = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}, "limit": 50})
            states = {run["name"]: run["state_name"] for run in runs}
            if len(states) == expected and not {"Pending", "Running"} & set(states.values()):
                return states
            time.sleep(0.2)
        return states

    def ask(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask Prefect's own API."""
        assert self.server
        request = urllib.request.Request(
            f"{self.server.url}/api/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return list(json.loads(opener.open(request, timeout=20).read()))


def environment() -> dict[str, str]:
    """This environment, with our packages importable from anywhere."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has never been run; tests get a copy."""
    root = tmp_path_factory.mktemp("template")
    for command in (
        ["git", "init", "--quiet"],
        [sys.executable, "-Pm", "dvc", "init", "--quiet"],
        [sys.executable, "-Pm", "dvc", "config", "core.analytics", "false"],
    ):
        subprocess.run(command, cwd=root, check=True)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.py").write_text(STAGE_PY)
    (root / "in.txt").write_text("some text")
    return root


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory, lend_prefect_tables: Callable[[Path], None]
) -> Iterator[tuple[Path, servers.Server]]:
    """One Prefect server for the session, and the folder that it was started for."""
    assert "prefect" not in sys.modules, (
        "a test has loaded Prefect, which from now on talks to the server it found then"
    )
    root = tmp_path_factory.mktemp("server")
    lend_prefect_tables(root)
    server = servers.ensure(root, servers.PREFECT, print)
    with pytest.MonkeyPatch.context() as patch:
        # Prefect reads its settings when a test first imports it, and never again.
        for name, value in servers.prefect_environment(root, server.url).items():
            patch.setenv(name, value)
        yield root, server
        if flow := sys.modules.get("flows.pipeline_flow"):
            flow.deliver(10)
    assert servers.stop(root, servers.PREFECT)


@pytest.fixture(scope="session")
def settled(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have all been run, by DVC alone."""
    root = tmp_path_factory.mktemp("settled") / "project"
    shutil.copytree(template, root, symlinks=True)
    done = Project(root, None).dvc("repro")
    assert done.returncode == 0, done.stderr
    for trace in (root / "runs.log", *root.glob("pid.*")):
        trace.unlink()
    return root


def _copy(source: Path, to: Path) -> Path:
    shutil.copytree(source, to, symlinks=True)
    shutil.rmtree(to / ".homegrown", ignore_errors=True)
    return to


@pytest.fixture
def bare_project(template: Path, tmp_path: Path) -> Project:
    """A fresh project that knows of no server."""
    return Project(_copy(template, tmp_path / "project"), None)


@pytest.fixture
def make_project(
    template: Path, settled: Path, tmp_path: Path, prefect_server: tuple[Path, servers.Server]
) -> Iterator[Callable[..., Project]]:
    """Projects that find the session's server by their own record of it, with no delivery to MLflow at work."""
    home, server = prefect_server
    locks = []

    def make(name: str = "project", run_before: bool = False) -> Project:
        root = _copy(settled if run_before else template, tmp_path / name)
        shutil.copytree(home / ".homegrown" / "servers", root / ".homegrown" / "servers")
        lock = filelock.FileLock(root / ".homegrown" / "locks" / "delivery.lock")
        Path(lock.lock_file).parent.mkdir(parents=True)
        lock.acquire()
        locks.append(lock)
        return Project(root, server)

    yield make
    for lock in locks:
        lock.release()


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """A project that has never been run."""
    return make_project()


@pytest.fixture
def settled_project(make_project: Callable[..., Project]) -> Project:
    """A project in which everything is up to date."""
    return make_project(run_before=True)
