"""What the machine lacks is told in one line; what is a fault of ours is not told as if it were the machine's."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputOutputError, machine_errors


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), "clean: a.bin: the disk is full; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "a.bin"), "clean: a.bin: permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "clean: a/b: Not a directory"),
        (OSError(errno.EIO, "Input/output error"), "clean: Input/output error"),
        (MemoryError(), "clean: out of memory"),
        (RuntimeError("PytorchStreamWriter failed: file write failed"), "the disk is full"),
        (RuntimeError("could not create a primitive"), "clean: out of memory; lower pretrain.batch_size"),
        (RuntimeError("could not create a memory object"), "clean: out of memory; lower pretrain.batch_size"),
        (RuntimeError("can't start new thread"), r"clean: no thread can be started; raise the limits .*ulimit -v"),
    ],
)
def test_what_the_machine_lacks_is_74(error: Exception, said: str) -> None:
    """Disk, permission, memory, a file in a folder's place: InputOutputError, with the place and what to do."""
    with pytest.raises(InputOutputError, match=said), machine_errors("clean"):
        raise error


def test_a_named_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """Of the one place that was meant, the line says that it is not there."""
    path = tmp_path / "questions.jsonl"
    with (
        pytest.raises(InputOutputError, match=r"evaluate: .*questions\.jsonl: No such file"),
        machine_errors("evaluate", path),
    ):
        path.read_bytes()


@pytest.mark.parametrize("where", ["", "data/tokens"])
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "parts/7"),
        RuntimeError("x"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive"),
        KeyError("x"),
    ],
)
def test_a_fault_of_ours_stays_one(error: Exception, where: str) -> None:
    """A file that we ourselves lost, and what else nobody foresaw, passes through as it is."""
    with pytest.raises(type(error)), machine_errors("clean", where):
        raise error


WITHOUT_ROOM = """
import resource, threading
from pipeline.errors import InputOutputError, machine_errors
[size] = [int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize")]
threading.stack_size(64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (size + (16 << 20),) * 2)
try:
    with machine_errors("pretrain"):
        threading.Thread(target=print).start()
except InputOutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the size of a process is not in /proc")
def test_a_process_without_room_for_a_thread_says_so(
    python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Under a real limit of memory."""
    done = python("-c", WITHOUT_ROOM, cwd=tmp_path)
    assert done.stdout.startswith("pretrain: no thread can be started; raise the limits on memory"), done.stderr
