"""`homegrown ui`. Goes in: a project's folder. Comes out: the addresses of its MLflow and Prefect pages."""

from __future__ import annotations

import time
from pathlib import Path

from flows import servers
from flows.servers import MLFLOW, PREFECT, Kind, Server
from pipeline.tracking.connection import pages_address, tracking_uri


def show(root: Path, stay: bool) -> None:
    """Start what is not up, print both addresses, and with `stay` watch over them until Ctrl-C.

    Servers that this command started end with it; those that were up before it stay up.
    """
    kinds = [PREFECT] if tracking_uri().startswith(("http://", "https://")) else [MLFLOW, PREFECT]
    ours = [kind for kind in kinds if servers.find(root, kind) is None]
    starting = [(kind, servers.Starting(root, kind, _say)) for kind in kinds]
    up: dict[Kind, Server] = {}
    try:
        for kind, coming in starting:
            up[kind] = coming.wait()
        if MLFLOW not in up:
            _say(f"MLflow   {pages_address()}  (from MLFLOW_TRACKING_URI)")
        for kind, server in up.items():
            _say(f"{kind.title:8} {server.url}")
        if not stay:
            _say("stop both with: homegrown ui --stop")
            return
        _say("Ctrl-C ends " + ("them" if ours else "this command; the servers stay up until homegrown ui --stop"))
        while all(servers.find(root, kind) for kind in kinds):
            time.sleep(2)
        _say("a server has ended; look into .homegrown/logs and start again with: homegrown ui")
    except KeyboardInterrupt:
        for kind in ours:
            servers.stop(root, kind)
        _say("\nstopped" if ours else "")


def stop(root: Path) -> None:
    """Stop both servers."""
    for kind in (MLFLOW, PREFECT):
        _say(f"{kind.title}: {'stopped' if servers.stop(root, kind) else 'was not running'}")


def _say(text: str) -> None:
    print(text, flush=True)
