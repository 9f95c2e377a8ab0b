"""A file of tensors is a file like any other: as readable, and of a full disk it says what the system says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from model.tensor_file import write_tensors

REPOSITORY = Path(__file__).resolve().parents[2]


def test_it_holds_what_the_library_makes_and_whoever_may_read_a_new_file_may_read_it(tmp_path: Path) -> None:
    """Content to the byte, and the permission that the umask leaves."""
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7)}
    other = tmp_path / "other"
    other.touch()
    for _ in range(2):  # the second time over the first
        write_tensors(tmp_path / "one", tensors)
    assert (tmp_path / "one").read_bytes() == save(tensors)
    assert (tmp_path / "one").stat().st_mode == other.stat().st_mode
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(tmp_path / "one").items())


@pytest.mark.usefixtures("own_file_system")
def test_a_full_disk_is_the_system_s_error_and_leaves_nothing(tmp_path: Path) -> None:
    """safetensors wraps it in an exception of its own, which nobody would know as a lack of room."""
    script = """
import os, pathlib, torch
from model.tensor_file import write_tensors
try:
    write_tensors(pathlib.Path("one"), {"a": torch.zeros(10**6)})
except OSError as error:
    print(error, os.listdir())
"""
    mounted = 'mount -t tmpfs -o size=1m none "$1" && cd "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, "sh", str(tmp_path), sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[Errno 28] No space left on device: 'one' []\n"
