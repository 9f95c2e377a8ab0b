"""What a process may still take is the least of all that limits it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.free_memory import free_memory

REPOSITORY = Path(__file__).resolve().parents[2]
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def group(folder: Path, names: tuple[str, str, str], limit: str, taken: int, cached: int = 0) -> None:
    """A control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def system(folder: Path, line: str) -> Path:
    """A system whose process is in one group."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(f"3:cpuset:/\n{line}\n")
    return folder


@pytest.mark.parametrize(
    ("line", "mount", "names"),
    [("0::/pod/one", "sys/fs/cgroup", V2), ("8:cpu,memory:/pod/one", "sys/fs/cgroup/memory", V1)],
)
def test_a_control_group_limits(tmp_path: Path, line: str, mount: str, names: tuple[str, str, str]) -> None:
    """Of both versions: the limit less what is taken, cached files left out; and the group above limits too."""
    root = system(tmp_path, line)
    assert free_memory(root) > 1000
    group(root / mount / "pod/one", names, "1000", 300, cached=50)
    assert free_memory(root) == 750
    group(root / mount / "pod", names, "1000", 900)
    assert free_memory(root) == 100
    group(root / mount / "pod", names, "1000", 2000)
    assert free_memory(root) == 0


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """Where the path is the machine's and the folder is not there, the mount's own files count; `max` is no limit."""
    root = system(tmp_path, "0::/machine/container")
    group(root / "sys/fs/cgroup", V2, "max", 300)
    assert free_memory(root) > 1000
    group(root / "sys/fs/cgroup", V2, "1000", 300)
    assert free_memory(root) == 700


def test_an_address_space_limits() -> None:
    """As `ulimit -v` sets it, less what is mapped already."""
    code = (
        "import resource; from pipeline.free_memory import free_memory; import psutil\n"
        "resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 50_000_000,) * 2)\n"
        "print(free_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) <= 50_000_000
