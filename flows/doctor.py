"""`homegrown doctor`. Goes in: a project's folder. Comes out: what is here, what is missing, and what mends it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flows import servers
from flows.preparation import run_lock
from pipeline import lineage, versioning
from pipeline.errors import DependencyError, HomegrownError, TryAgainError

CONSTRAINTS = Path("constraints.txt")
ENOUGH_DISK_BYTES = 2 << 30
ENOUGH_MEMORY_BYTES = 2 << 30
_REINSTALL = "pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    ok: bool = True
    mend: str = ""
    """The command that mends it, if it is not as it should be."""


def examine(root: Path, *, as_json: bool = False) -> None:
    """Print the findings; DependencyError if something is missing."""
    findings = list(look(root))
    broken = [finding for finding in findings if not finding.ok]
    if as_json:
        print(json.dumps({"ok": not broken, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            print(f"{'ok' if finding.ok else '!!'}  {finding.what:{width}}  {finding.found}")
            if finding.mend:
                print(f"    {'':{width}}  → {finding.mend}")
    if broken:
        raise DependencyError(f"{len(broken)} of {len(findings)} checks failed: {', '.join(f.what for f in broken)}")


def look(root: Path) -> Iterator[Finding]:
    """Every check in turn. One that breaks is a finding itself and keeps none of the others from being made."""
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _hardware,
        _disk,
        _compiler,
        _versions_of_data,
        _params,
        _loopback,
        _servers,
        _runs,
    )
    for check in checks:
        try:
            yield from check(root)
        except Exception as error:
            reason = str(error) if isinstance(error, HomegrownError) else f"{type(error).__name__}: {error}"
            yield Finding(check.__name__.strip("_").replace("_", " "), " ".join(reason.split()), ok=False)


def _python(root: Path) -> Iterator[Finding]:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    mend = "" if ok else "make clean && make setup PYTHON=python3.12"
    yield Finding("python", f"{platform.python_version()} at {sys.executable}", ok, mend)
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}")


def _packages(root: Path) -> Iterator[Finding]:
    path = root / CONSTRAINTS
    if not path.exists():
        yield Finding("packages", "constraints.txt is not here", False, "git checkout constraints.txt")
        return
    pins = dict(
        line.split(";")[0].strip().split("==")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    installed = {name: _installed(name) for name in pins}
    needed = [name for name in _requirements(root) if installed.get(name, "") is None]
    # torch is the one package whose build belongs to the machine (`2.11.0+cu128`).
    other = [
        f"{n} {v} (pin {pins[n]})" for n, v in installed.items() if v and v.split("+")[0] != pins[n] and n != "torch"
    ]
    found = f"{sum(v is not None for v in installed.values())} installed of {len(pins)} pinned"
    if other:
        found += f"; {len(other)} of another version: {', '.join(other[:4])}{' …' if len(other) > 4 else ''}"
    if needed:
        found += f"; missing: {', '.join(needed)}"
    yield Finding("packages", found, not needed, _REINSTALL if needed or other else "")


def _hardware(root: Path) -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    yield Finding("cores", str(cores))
    enough = memory.available >= ENOUGH_MEMORY_BYTES
    mend = "" if enough else "close other programs, or lower pretrain.batch_size"
    yield Finding("memory", f"{_gib(memory.available)} free of {_gib(memory.total)}", enough, mend)
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    yield Finding("torch", torch.__version__)
    yield Finding("devices", ", ".join(devices))


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free
    mend = "" if free >= ENOUGH_DISK_BYTES else "dvc gc --workspace"
    yield Finding("disk", f"{_gib(free)} free", not mend, mend)


def _compiler(root: Path) -> Iterator[Finding]:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    yield Finding("compiler", found or "none; torch.compile is left out, training is slower")


def _versions_of_data(root: Path) -> Iterator[Finding]:
    state = versioning.state(root)
    git = shutil.which("git")
    commit, changed = lineage.commit_id(root)
    known = "no commit here" if commit == lineage.NO_GIT else commit + "+" * changed
    yield Finding("git", known, git is not None, "" if git else "install git")
    whole = state["lock_readable"] and state["rwlock_readable"]
    found = f"{state['locked_stages']} stages recorded, cache {_gib(state['cache_bytes'])}"
    mend = "dvc init" if not state["initialised"] else "" if whole else "homegrown run"
    yield Finding("dvc", found if whole else "left unreadable by a killed process; a run mends it", not mend, mend)


def _params(root: Path) -> Iterator[Finding]:
    from pipeline import params

    loaded = params.load(root / params.PARAMS_FILE)
    loaded.check()
    yield Finding("params", f"preset {loaded.preset}")


def _loopback(root: Path) -> Iterator[Finding]:
    try:
        servers.check_loopback()
    except DependencyError as error:
        yield Finding("loopback", str(error), False, "ip link set lo up")
    else:
        yield Finding("loopback", servers.HOST)


def _servers(root: Path) -> Iterator[Finding]:
    for kind in (servers.PREFECT, servers.MLFLOW):
        server = servers.find(root, kind)
        when = "starts with a run" if kind is servers.PREFECT else "starts with homegrown ui"
        yield Finding(f"{kind.name} server", f"{server.url} (pid {server.pid})" if server else f"not running; {when}")
    from pipeline.tracking import spool
    from pipeline.tracking.connection import DEFAULT_URI, connect, tracking_uri

    if tracking_uri() == DEFAULT_URI and not (root / "mlflow.db").exists():
        yield Finding("mlflow store", "not there yet; the first run makes it")
    else:
        try:
            connect()
        except DependencyError as error:
            yield Finding("mlflow store", str(error), False, "homegrown ui, or correct MLFLOW_TRACKING_URI")
        else:
            yield Finding("mlflow store", tracking_uri())
    waiting = len(spool.waiting())
    yield Finding("mlflow records", f"{waiting} waiting for delivery" if waiting else "all delivered")


def _runs(root: Path) -> Iterator[Finding]:
    try:
        with run_lock(root):
            yield Finding("run", "none at work")
    except TryAgainError as error:
        yield Finding("run", str(error))


def _requirements(root: Path) -> list[str]:
    """The packages that the project itself asks for, by name."""
    import tomllib

    with (root / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    return [entry.split(">")[0].split("<")[0].split("=")[0].split("[")[0].strip() for entry in wanted]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
