"""Goes in: a stage's command, and the processes it should be. Comes out: the same command, run by torchrun in all.

The stage's own process becomes the one that watches: it starts the others, hands on the signal that stops them, and
ends with their exit code. Of them only the one with rank 0 reports and writes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BUG_EXIT_CODE, ConfigurationError
from pipeline.params import Compute

PARALLEL_STAGES = ("pretrain",)
EXIT_CODE_FILE = "HOMEGROWN_EXIT_CODE_FILE"
PORT = "29400"


def rank() -> int:
    """The number of this process among those that torchrun started; 0 where it started none."""
    return int(os.environ.get("RANK", 0))


@dataclass(frozen=True)
class Wanted:
    """Over how much a stage is to be spread."""

    processes: int
    """On each machine."""
    nodes: int
    """Machines."""


def spread(compute: Compute) -> Wanted:
    """What a stage is spread over, or is to be."""
    number = compute.processes
    if not number:
        import torch

        number = max(1, torch.cuda.device_count() if compute.device in ("auto", "cuda") else 1)
    return Wanted(number, compute.nodes)


def wanted(compute: Compute) -> Wanted | None:
    """What a stage is to be spread over; None for one process, and in one that was started for its part already."""
    if "RANK" in os.environ:
        return None
    over = spread(compute)
    return over if over.processes * over.nodes > 1 else None


def run_in_processes(arguments: list[str], over: Wanted) -> int:
    """Run `python -m pipeline ARGUMENTS` in all of these processes; the exit code of the first that failed, or 0.

    With several machines, each runs this, and MASTER_ADDR names one of them (MASTER_PORT its port), where they meet.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    meeting_place = "localhost:0"
    if over.nodes > 1:
        if "MASTER_ADDR" not in os.environ:
            raise ConfigurationError(
                f"compute.nodes is {over.nodes}: set MASTER_ADDR to the name of one machine, the same on all"
            )
        meeting_place = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', PORT)}"
    config = LaunchConfig(
        min_nodes=over.nodes,
        max_nodes=over.nodes,
        nproc_per_node=over.processes,
        run_id="homegrown" if over.nodes > 1 else f"homegrown-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint=meeting_place,
        max_restarts=0,  # a failed training is resumed by running it again, whoever does that
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exit-code"
        os.environ[EXIT_CODE_FILE] = str(file)
        try:
            elastic_launch(config, sys.executable)("-m", "pipeline", *arguments)
            ended = 0
        except ChildFailedError:
            ended = BUG_EXIT_CODE
        except SignalException:
            if not file.exists():  # none of them had come so far as to say how it ended
                raise KeyboardInterrupt from None
            ended = BUG_EXIT_CODE
        finally:
            del os.environ[EXIT_CODE_FILE]
        return int(file.read_text()) if file.exists() else ended


def first_to_end(code: int) -> bool:
    """Whether this process may say how the stage ended: alone it may, of several the first that fails.

    It leaves its exit code for the process that watches, because torchrun itself says no more than that one failed; the
    others then fail too, and only because of it.
    """
    if EXIT_CODE_FILE not in os.environ:
        return True
    try:
        with Path(os.environ[EXIT_CODE_FILE]).open("x") as file:
            file.write(str(code))
    except OSError:
        return False
    return True
