"""Goes in: a project's folder. Comes out: its own Prefect and MLflow servers, started if they are not up.

A server is a detached process on loopback, described by `.homegrown/servers/NAME.json` (pid, time of birth, port). It
is ours if that very process lives, listens on that port, and its health page answers; a recycled pid or a stranger on
the port is never mistaken for it, and never signalled. One OS lock per server makes two racing commands start it once.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.processes import birth, listens
from flows.project import STATE
from pipeline.errors import DependencyError
from pipeline.tracking.connection import tracking_uri

HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 15.0
_PAUSE_SECONDS = 0.05

# No telemetry and no look for newer versions, from either of them.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Server:
    """A server process that was started for this project."""

    name: str
    pid: int
    born: str
    """When the process was born; with the pid, it names one process for good."""
    port: int
    version: str

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True)
class Kind:
    """How to start and to recognise one sort of server."""

    name: str
    title: str
    package: str
    health_path: str
    first_port: int
    command: Callable[[int], list[str]]
    environment: Callable[[Path, int], dict[str, str]]


def prefect_environment(root: Path, url: str | None = None) -> dict[str, str]:
    """What Prefect must find in its environment to keep to this project; with `url`, also what its client needs."""
    environment = {
        **QUIET,
        "PREFECT_HOME": str(root / STATE / "prefect"),
        "PREFECT_PROFILES_PATH": str(root / STATE / "prefect" / "profiles.toml"),
        # A proxy in the environment must not come between us and loopback.
        "NO_PROXY": _with_loopback(os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""),
    }
    environment["no_proxy"] = environment["NO_PROXY"]
    if url:
        environment |= {
            "PREFECT_API_URL": f"{url}/api",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            # The terminal is the display's; what Prefect has to say is in its own log.
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            # Five, the default, would wait two minutes for a server that has died.
            "PREFECT_CLIENT_MAX_RETRIES": "2",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "1.0",
        }
    return environment


def _prefect_server_environment(root: Path, port: int) -> dict[str, str]:
    return prefect_environment(root) | {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}",
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def _mlflow_command(port: int) -> list[str]:
    hosts = f"{HOST}:{port},localhost:{port}"
    return [
        *(sys.executable, "-Pm", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--default-artifact-root", "./mlruns"),
        *("--allowed-hosts", hosts, "--cors-allowed-origins", f"http://{HOST}:{port},http://localhost:{port}"),
    ]


PREFECT = Kind(
    name="prefect",
    title="Prefect",
    package="prefect",
    health_path="/api/health",
    first_port=4200,
    command=lambda port: [sys.executable, "-Pm", "prefect", "server", "start", "--host", HOST, "--port", str(port)],
    environment=_prefect_server_environment,
)
MLFLOW = Kind(
    name="mlflow",
    title="MLflow",
    package="mlflow",
    health_path="/health",
    first_port=5000,
    command=_mlflow_command,
    # The store's address may hold a password, so it does not stand on the command line, where all can read it.
    environment=lambda root, port: {
        **QUIET,
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    },
)


def find(root: Path, kind: Kind) -> Server | None:
    """The project's server if it is up, answers, and is of the version that is installed."""
    server = _recorded(root, kind)
    ours = server is not None and server.version == _version(kind) and _alive(server)
    return server if server and ours and _healthy(server, kind) else None


class Starting:
    """A server that is up or coming up. `wait` gives it once it answers; until then there is time for other work."""

    def __init__(self, root: Path, kind: Kind, say: Callable[[str], None]) -> None:
        self._root, self._kind, self._say = root, kind, say
        self._server = find(root, kind)
        self._begun = time.monotonic()
        if self._server is None:
            with _lock(root, kind, say):
                server = _recorded(root, kind)
                if server and _alive(server) and server.version == _version(kind):
                    self._coming = server  # somebody else has just started it
                else:
                    if server and _alive(server):
                        _end(server)
                    check_loopback()
                    say(f"starting {kind.title}'s server (a few seconds, the first time up to a minute) …")
                    self._coming = _launch(root, kind)

    def wait(self) -> Server:
        """The server, once its health page answers; DependencyError says why it does not and where its log is."""
        if self._server:
            return self._server
        kind, server, attempts = self._kind, self._coming, 1
        while not _healthy(server, kind):
            if not _alive(server):
                # Between our look at the port and the server's, somebody else may have taken it.
                if attempts < 3 and (not _port_free(server.port) or _met_a_stranger(self._root, kind)):
                    attempts += 1
                    server = self._launched_again(server)
                    continue
                raise DependencyError(
                    f"{kind.title}'s server ended while starting: {_last_line(self._root, kind)} "
                    f"(log: {_log(self._root, kind).relative_to(self._root)})"
                )
            if time.monotonic() - self._begun > START_SECONDS:
                _end(server)
                raise DependencyError(
                    f"{kind.title}'s server did not answer within {START_SECONDS:.0f} s; "
                    f"look into {_log(self._root, kind).relative_to(self._root)} and run again"
                )
            time.sleep(_PAUSE_SECONDS)
        self._say(f"{kind.title}'s server is up at {server.url} after {time.monotonic() - self._begun:.0f} s")
        self._server = server
        return server

    def _launched_again(self, dead: Server) -> Server:
        """A server in place of one that ended: the one that another command has started meanwhile, or a new one."""
        with _lock(self._root, self._kind, self._say):
            recorded = _recorded(self._root, self._kind)
            if recorded and recorded != dead and _alive(recorded) and recorded.version == dead.version:
                return recorded
            return _launch(self._root, self._kind)


def _met_a_stranger(root: Path, kind: Kind) -> bool:
    """Whether the server says that its port was taken, though the port may be free again by now."""
    return b"already in use" in _log(root, kind).read_bytes().lower()


def ensure(root: Path, kind: Kind, say: Callable[[str], None]) -> Server:
    """The project's server, started if it is not up."""
    return Starting(root, kind, say).wait()


def stop(root: Path, kind: Kind) -> bool:
    """End the project's server by its pid; False if none was up. Only a process that is surely ours is signalled."""
    with _lock(root, kind, lambda _: None):
        server = _recorded(root, kind)
        alive = server is not None and _alive(server)
        if server and alive:
            _end(server)
        _record(root, kind).unlink(missing_ok=True)
        return alive


def _launch(root: Path, kind: Kind) -> Server:
    previous = _recorded(root, kind)
    port = _free_port(previous.port if previous else kind.first_port)
    log = _log(root, kind)
    log.parent.mkdir(parents=True, exist_ok=True)
    (root / STATE / kind.name).mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            kind.command(port),
            cwd=root,
            env={**os.environ, **kind.environment(root, port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives us, and no Ctrl-C of ours reaches it
        )
    server = Server(kind.name, process.pid, birth(process.pid) or "", port, _version(kind))
    record = _record(root, kind)
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(server)) + "\n", encoding="utf-8")
    partial.replace(record)
    return server


def _end(server: Server) -> None:
    """SIGTERM to the server's process group, and SIGKILL to what is left of it after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not _alive(server):
                return
            time.sleep(_PAUSE_SECONDS)


def _alive(server: Server) -> bool:
    """Whether the very process that was started is still there."""
    return birth(server.pid) == server.born


def _healthy(server: Server, kind: Kind) -> bool:
    """Whether it is this very server that listens, and its health page answers.

    While it is starting, a stranger may take its port and answer in its place. Plain http.client knows of no proxy.
    """
    if not listens(server.pid, server.port):
        return False
    connection = http.client.HTTPConnection(HOST, server.port, timeout=5)
    try:
        connection.request("GET", kind.health_path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def check_loopback() -> None:
    """DependencyError if this machine cannot talk to itself, as in a fresh network namespace."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1)
        try:
            socket.create_connection(listener.getsockname(), timeout=2).close()
        except OSError as error:
            raise DependencyError(
                f"the loopback interface does not answer ({error.strerror or error}); run `ip link set lo up`"
            ) from error


def _free_port(wish: int) -> int:
    """The wished-for port, one of the nine after it, or any that the system has to give."""
    for port in range(wish, wish + 10):
        if _port_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _lock(root: Path, kind: Kind, say: Callable[[str], None]) -> Iterator[None]:
    import filelock

    path = root / STATE / "locks" / f"{kind.name}-server.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except filelock.Timeout:
        say(f"waiting for another command that is starting or stopping {kind.title}'s server …")
        lock.acquire(timeout=START_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _record(root: Path, kind: Kind) -> Path:
    return root / STATE / "servers" / f"{kind.name}.json"


def _log(root: Path, kind: Kind) -> Path:
    return root / STATE / "logs" / f"{kind.name}-server.log"


def _recorded(root: Path, kind: Kind) -> Server | None:
    try:
        return Server(**json.loads(_record(root, kind).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _version(kind: Kind) -> str:
    try:
        return importlib.metadata.version(kind.package)
    except importlib.metadata.PackageNotFoundError:
        raise DependencyError(
            f"{kind.package} is not installed; run `pip install -e .` in the project's folder"
        ) from None


def _last_line(root: Path, kind: Kind) -> str:
    lines = [line.strip() for line in _log(root, kind).read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def _with_loopback(no_proxy: str) -> str:
    hosts = [host for host in no_proxy.split(",") if host]
    return ",".join([*hosts, *(host for host in (HOST, "localhost") if host not in hosts)])
