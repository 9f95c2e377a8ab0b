"""A project's servers: started once, found again, stopped by pid, and never mistaken for somebody else's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows import interfaces, servers
from flows.servers import HOST, Kind, Server
from pipeline.errors import DependencyError
from tests.flows.conftest import environment

pytestmark = pytest.mark.xdist_group("prefect")

# A server that is up in a moment, notes each of its starts, and takes its time to answer the first question.
WEB_PY = """\
import http.server, os, sys, time
open("starts.log", "a").write(f"{os.getpid()}\\n")
time.sleep(0.5)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
WEB = Kind(
    name="web",
    title="Web",
    package="pytest",
    health_path="/starts.log",
    first_port=18970,
    command=lambda port: [sys.executable, "web.py", str(port)],
    environment=lambda root, port: {},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the little server's program; what was started in it is stopped."""
    (tmp_path / "web.py").write_text(WEB_PY)
    yield tmp_path  # type: ignore[misc]
    servers.stop(tmp_path, WEB)


def silence(_: str) -> None:
    """Say nothing."""


def test_server_is_started_once_and_found_again(root: Path) -> None:
    """The second command finds the server of the first, with the same pid and port."""
    said: list[str] = []
    first = servers.ensure(root, WEB, said.append)
    assert said[0].startswith("starting Web's server")
    said.clear()
    assert servers.ensure(root, WEB, said.append) == first == servers.find(root, WEB)
    assert said == []
    assert (root / "starts.log").read_text().split() == [str(first.pid)]


def test_two_commands_that_race_start_one_server(root: Path) -> None:
    """Two processes that want the server at the same moment end up with the same one."""
    program = (
        "import sys; from pathlib import Path; from tests.flows.test_servers import WEB; from flows import servers;"
        "print(servers.ensure(Path(sys.argv[1]), WEB, lambda _: None).pid)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE, env=environment(), text=True
        )
        for _ in range(2)
    ]
    pids = {process.communicate(timeout=60)[0] for process in both}
    assert len(pids) == 1
    assert (root / "starts.log").read_text() == pids.pop()


def test_stop_ends_the_process_and_says_whether_there_was_one(root: Path) -> None:
    """After `stop` the process is gone and the port is free; a second stop has nothing to do."""
    server = servers.ensure(root, WEB, silence)
    assert servers.stop(root, WEB)
    assert not psutil.pid_exists(server.pid) or psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE
    assert servers.find(root, WEB) is None
    assert not servers.stop(root, WEB)


def test_server_that_was_killed_is_started_again_on_its_port(root: Path) -> None:
    """After kill -9 the next command starts a new server, at the same address."""
    first = servers.ensure(root, WEB, silence)
    os.kill(first.pid, signal.SIGKILL)
    second = servers.ensure(root, WEB, silence)
    assert second.pid != first.pid
    assert second.port == first.port


def test_stranger_under_a_recycled_pid_is_neither_believed_nor_stopped(root: Path) -> None:
    """A record whose pid now belongs to another process names no server, and that process is left alone."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        record = root / ".homegrown" / "servers" / "web.json"
        record.parent.mkdir(parents=True)
        version = servers._version(WEB)
        record.write_text(json.dumps(vars(Server("web", stranger.pid, "tick 1", 18970, version))))
        assert servers.find(root, WEB) is None
        assert not servers.stop(root, WEB)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_port_in_use_is_passed_over(root: Path) -> None:
    """If somebody else listens on the usual port, the server takes another."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # then it is taken already, which is as good
            taken.bind((HOST, WEB.first_port))
            taken.listen()
        assert servers.ensure(root, WEB, silence).port != WEB.first_port


def test_stranger_that_takes_the_port_meanwhile_is_not_believed(root: Path) -> None:
    """If somebody else gets hold of the port while the server starts, and answers, the server is started on another."""
    (root / "web.py").write_text(WEB_PY.replace("time.sleep(0.5)", "time.sleep(2)"))
    starting = servers.Starting(root, WEB, silence)
    wished = int(json.loads((root / ".homegrown" / "servers" / "web.json").read_text())["port"])
    stranger = subprocess.Popen([sys.executable, "-m", "http.server", str(wished), "--bind", HOST], cwd=root)
    try:
        server = starting.wait()
        assert server.port != wished
        assert servers.find(root, WEB) == server
    finally:
        stranger.kill()
        stranger.wait()


def test_two_commands_whose_server_lost_its_port_start_one_in_its_place(root: Path) -> None:
    """Both wait for the server that one of them had started; when it has to be started again, that happens once."""
    (root / "web.py").write_text(WEB_PY.replace("time.sleep(0.5)", "time.sleep(2)"))
    both = [servers.Starting(root, WEB, silence) for _ in range(2)]
    wished = int(json.loads((root / ".homegrown" / "servers" / "web.json").read_text())["port"])
    stranger = subprocess.Popen([sys.executable, "-m", "http.server", str(wished), "--bind", HOST], cwd=root)
    found: list[Server] = []
    try:
        waiting = [threading.Thread(target=lambda one=one: found.append(one.wait())) for one in both]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join(60)
        assert len(found) == 2 and found[0] == found[1]
        assert len((root / "starts.log").read_text().split()) == 2
    finally:
        stranger.kill()
        stranger.wait()


def test_server_that_does_not_start_is_a_dependency_error_with_its_last_words(root: Path) -> None:
    """The error says what the server said last and where its log is."""
    (root / "web.py").write_text("raise SystemExit('no such database')")
    with pytest.raises(DependencyError, match=r"no such database \(log: \.homegrown/logs/web-server\.log\)"):
        servers.ensure(root, WEB, silence)


def test_another_version_is_replaced(root: Path) -> None:
    """After an upgrade the old server is stopped and a new one started."""
    old = servers.ensure(root, WEB, silence)
    record = root / ".homegrown" / "servers" / "web.json"
    record.write_text(record.read_text().replace(f'"version": "{old.version}"', '"version": "0.1"'))
    new = servers.ensure(root, WEB, silence)
    assert new.pid != old.pid
    assert not psutil.pid_exists(old.pid) or psutil.Process(old.pid).status() == psutil.STATUS_ZOMBIE


def test_loopback_goes_round_the_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy in the environment keeps its exceptions and gets ours."""
    monkeypatch.setenv("NO_PROXY", "intranet")
    assert servers.prefect_environment(tmp_path)["NO_PROXY"] == "intranet,127.0.0.1,localhost"


def test_a_tracking_server_s_password_is_not_printed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a server that was named with a password, `homegrown ui` prints the address alone."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://somebody:SECRET-CANARY@mlflow.example:8443/")
    monkeypatch.setattr(interfaces, "PREFECT", WEB)
    interfaces.show(root, stay=False)
    assert "MLflow   https://mlflow.example:8443  (from MLFLOW_TRACKING_URI)\n" in capsys.readouterr().out


@pytest.mark.slow
def test_prefect_s_server_listens_on_loopback_alone(prefect_server: tuple[Path, Server]) -> None:
    """No other interface answers, and its pages may be read by its own origin only."""
    _, server = prefect_server
    listening = {c.laddr.ip for c in psutil.Process(server.pid).net_connections("tcp") if c.status == "LISTEN"}
    assert listening == {HOST}
    preflight = urllib.request.Request(
        f"{server.url}/api/flow_runs/filter",
        method="OPTIONS",
        headers={"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(preflight, timeout=20)
    assert refused.value.code == 400


@pytest.mark.slow
def test_ui_starts_both_servers_prints_their_addresses_and_ctrl_c_ends_them(tmp_path: Path) -> None:
    """`homegrown ui` says where both pages are, MLflow refuses a foreign Host, and Ctrl-C leaves nothing running."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "ui"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    assert process.stdout
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    deadline = time.monotonic() + 150
    while not any(line.startswith("Ctrl-C") for line in lines):
        assert time.monotonic() < deadline and process.poll() is None, lines
        time.sleep(0.2)
    addresses = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("MLflow  ", "Prefect  "))}
    assert set(addresses) == {"MLflow", "Prefect"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert opener.open(addresses["MLflow"], timeout=20).status == 200
    assert opener.open(addresses["Prefect"], timeout=20).status == 200
    foreign = urllib.request.Request(
        f"{addresses['MLflow']}/api/2.0/mlflow/experiments/search", headers={"Host": "x.example"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(foreign, timeout=20)
    assert refused.value.code == 403
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    reader.join(10)
    assert lines[-1] == "stopped\n"
    for kind in (servers.MLFLOW, servers.PREFECT):
        assert servers.find(tmp_path, kind) is None
    assert (tmp_path / "mlflow.db").exists()
