"""Two processes train like one: the same data in the same order, and the same curve of the loss."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.batches import Batch, Example, Examples
from model.checkpoint import CheckpointMismatch, load_checkpoint
from model.gpt import IGNORE
from model.parallel import ALONE, World

REPOSITORY = Path(__file__).resolve().parents[2]
SCENE = Path(__file__).with_name("parallel_scene.py")
_spec = importlib.util.spec_from_file_location("parallel_scene", SCENE)
assert _spec is not None and _spec.loader is not None
scene: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scene)

# One worker runs them all, so that the two processes train once.
pytestmark = pytest.mark.xdist_group("parallel")

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saw that trained in every way."""
    folder = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCENE)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def seen(folder: Path, way: str, rank: int) -> dict[str, Any]:
    """What one process wrote down."""
    found: dict[str, Any] = json.loads((folder / f"{way}-{rank}.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", scene.WAYS)
def test_two_processes_learn_like_one(trained: Path, way: str) -> None:
    """The loss of every step is that of one process to rounding, on both; their rows are the batch's, dealt in turn."""
    changes = scene.WAYS[way][1]
    rows: list[list[list[int]]] = []
    alone = scene.losses(scene.start(ALONE, **changes), rows)
    first, second = (seen(trained, way, rank) for rank in (0, 1))
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(alone, rel=TOLERANCE[changes.get("precision", "float32")])
    assert first["rows"] == [batch[0::2] for batch in rows]
    assert second["rows"] == [batch[1::2] for batch in rows]


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way, (sharded, _) in scene.WAYS.items() if sharded])
def test_one_process_goes_on_from_the_checkpoint_of_two(trained: Path, way: str) -> None:
    """A sharded checkpoint is refused by a run of another size, unless that is allowed; then the curve goes on."""
    state = scene.start(ALONE, **scene.WAYS[way][1])
    with pytest.raises(CheckpointMismatch, match="processes was 2, is 1"):
        load_checkpoint(trained / way, state, scene.DATA)
    resumed = load_checkpoint(trained / way, state, scene.DATA, allow_changes=True)
    assert resumed is not None and resumed.step == 3
    assert any("processes was 2, is 1" in change for change in state.changes)
    rest = scene.losses(state)
    tolerance = TOLERANCE[state.config.precision]
    assert rest == pytest.approx(seen(trained, way, 0)["losses"][3:], rel=tolerance)


def test_every_row_goes_to_exactly_one_process() -> None:
    """Seven rows over three processes: 3, 2 and 2; with more processes than rows, the rest score nothing."""
    batch = Batch(torch.arange(14).view(7, 2), torch.arange(14).view(7, 2), torch.full((7,), 2))
    parts = [World(rank, 3).rows(batch) for rank in range(3)]
    assert [part.ids_BT[:, 0].tolist() for part in parts] == [[0, 6, 12], [2, 8], [4, 10]]
    assert [part.targets.shape[0] for part in parts] == [3, 2, 2]
    idle = World(8, 9).rows(batch)
    assert idle.ids_BT.shape == (1, 2) and (idle.targets == IGNORE).all() and idle.scored() == 0
    examples = Examples([Example([1, 2], 0), Example([3], 1)], batch_size=2, seed=0, padding_id=0)
    assert World(5, 6).rows(examples(0)).targets.tolist() == [IGNORE]
