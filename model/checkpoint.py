"""A training state in, a verified folder out, and back: saving that survives a power cut at any instant.

A checkpoint is a folder `step-00000120` of safetensors and JSON. It is written under another name, flushed to disk and
renamed, and its list of digests is written last, so whatever has a right list is whole. The newest whole one counts;
two are kept, so that a torn or altered one costs some steps and never the run. Nothing is pickled.

A model that is cut over several processes is saved by all of them, each its part (torch.distributed.checkpoint, in its
safetensors format), under the same rules; any other number of processes can read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from model import checkpoint_state
from model.checkpoint_state import Fingerprint
from model.gpt import GPT, GPTConfig
from model.outline import without_numbers
from model.parallel import like, whole
from model.tensor_file import write_tensors
from model.training import TrainingState

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
DIGESTS = "digests.json"
CONFIG = "config.json"
KEPT = 2
FOLDER_NAME = re.compile(r"step-(\d{8,})")


class CorruptCheckpoint(ValueError):
    """A file of a model or checkpoint is missing or altered."""


class CheckpointMismatch(ValueError):
    """A whole checkpoint that belongs to another run: going on from it would not give this run's weights."""


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on."""

    step: int
    """Steps that are done."""
    path: Path | None
    """The checkpoint's folder; None where all were torn or altered, and the run begins anew."""
    skipped: tuple[str, ...]
    """Newer checkpoints that were torn or altered, each with the reason."""
    changes: tuple[str, ...]
    """What differs from the run that saved it (only with allow_changes); not empty: no longer bitwise equal."""


@dataclass(frozen=True)
class Snapshot:
    """A training state at one moment, copied."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """By the file that they are for."""
    record: bytes
    """The file of all that is no tensor."""


def snapshot(state: TrainingState, fingerprint: Fingerprint) -> Snapshot:
    """Copy everything that resuming needs; what happens to the state afterwards does not change the copy."""
    tensors = {
        WEIGHTS: {name: whole(value) for name, value in checkpoint_state.weights(state).items()},
        OPTIMIZER: {**checkpoint_state.extras(state), **checkpoint_state.random_tensors(state)},
    }
    record = {**_record(state, fingerprint, [WEIGHTS, OPTIMIZER]), "random": checkpoint_state.random_numbers()}
    copies = {file: {name: _copy(value) for name, value in those.items()} for file, those in tensors.items()}
    return Snapshot(state.step, copies, _json(record))


def write(folder: Path, taken: Snapshot) -> Path:
    """Make a snapshot `folder/step-…` at once, remove all but the two newest whole ones, return the new one's path.

    Raises OSError when the disk is full; earlier checkpoints are then untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    target = folder / _name(taken.step)
    temporary = folder / f".{target.name}.partial"
    temporary.mkdir()
    try:
        for name, tensors in taken.tensors.items():
            write_tensors(temporary / name, tensors)
        _write_durably(temporary / STATE, taken.record)
        _seal(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _prune(folder, target)
    return target


class CheckpointSaver:
    """Saves while training goes on: a snapshot is taken at once, and written by a thread, one at a time.

    An error of the thread is raised by the next call, and at the latest on leaving the `with` block. A sharded model is
    saved at once, by all processes together; any other by the first of them.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        """`fingerprint` says what the run trains on (the tokens' digest, …); `load_checkpoint` compares it."""
        self._folder, self._fingerprint = folder, fingerprint
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, state: TrainingState) -> None:
        """Take a snapshot, once the one before is on disk."""
        self.wait()
        if state.world.sharded:
            _save_sharded(self._folder, state, self._fingerprint)
        elif state.world.rank == 0:
            self._writing = self._pool.submit(write, self._folder, snapshot(state, self._fingerprint))

    def raise_errors(self) -> None:
        """Raise what went wrong, without waiting for what is still being written."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until the last snapshot is on disk."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()


def load_checkpoint(
    folder: Path, state: TrainingState, fingerprint: Fingerprint, *, allow_changes: bool = False
) -> Resumed | None:
    """Put the newest whole checkpoint into `state`, which is left alone if none is whole; None where there is none.

    Raises CheckpointMismatch when the data, the settings, the number of threads or processes, the precision, the
    processor's instructions or torch's version differ, because the result would no longer be that of an uninterrupted
    run; `allow_changes` goes on regardless, and every later checkpoint of the run says so.
    """
    skipped: list[str] = []
    for path in _newest_first(folder):
        reason = _fault(path)
        if reason:
            skipped.append(f"{path.name}: {reason}")
            continue
        record = json.loads((path / STATE).read_bytes())
        changes = checkpoint_state.changes(record["identity"], checkpoint_state.identity(state, fingerprint))
        if changes and not allow_changes:
            raise CheckpointMismatch(
                f"{path}: saved by another run ({'; '.join(changes)}); put that back, remove the folder to start anew, "
                "or allow it (compute.allow_changed_resume: true), which no longer gives the same weights bit for bit"
            )
        if (path / WEIGHTS).exists():
            tensors = load_file(path / OPTIMIZER)
            _load_weights(state.model, load_file(path / WEIGHTS), path)
            if not state.world.sharded:
                checkpoint_state.put_random(tensors, record["random"])
        else:
            from model.sharded_checkpoint import read_parts  # takes 0.6 s, and few need it

            tensors = read_parts(path, state)
        checkpoint_state.put_extras(state, tensors, record["optimizers"])
        checkpoint_state.put_numbers(state, record)
        state.refresh_fast_model()
        state.changes = (*record["changes"], *(f"from step {state.step}: {change}" for change in changes))
        return Resumed(state.step, path, tuple(skipped), tuple(changes))
    return Resumed(state.step, None, tuple(skipped), ()) if skipped else None


def differences(folder: Path, state: TrainingState, fingerprint: Fingerprint) -> tuple[int, list[str]]:
    """The step of the newest checkpoint, 0 where there is none to read, and in what it differs from this run."""
    for path in _newest_first(folder):
        try:
            record = json.loads((path / STATE).read_bytes())
            found = checkpoint_state.changes(record["identity"], checkpoint_state.identity(state, fingerprint))
            return int(record["step"]), found
        except (OSError, ValueError, KeyError):
            continue  # torn; load_checkpoint says so
    return 0, []


def _record(state: TrainingState, fingerprint: Fingerprint, files: list[str]) -> dict[str, Any]:
    return {
        **checkpoint_state.numbers(state),
        "identity": checkpoint_state.identity(state, fingerprint),
        "changes": list(state.changes),
        "files": files,
    }


def _save_sharded(folder: Path, state: TrainingState, fingerprint: Fingerprint) -> Path:
    """Every process writes its part into one new folder; the first then seals it."""
    from model.sharded_checkpoint import write_parts

    target = folder / _name(state.step)
    temporary = folder / f".{target.name}.partial"
    if state.world.rank == 0:
        _sweep(folder)
        temporary.mkdir(parents=True)
    state.world.wait()
    write_parts(temporary, state)
    state.world.wait()
    if state.world.rank == 0:
        parts = sorted(path.name for path in temporary.iterdir())
        _write_durably(temporary / STATE, _json(_record(state, fingerprint, parts)))
        _seal(temporary, target)
        _prune(folder, target)
    state.world.wait()
    return target


def save_model(folder: Path, model: GPT) -> None:
    """Write the weights (float32 safetensors) and the configuration; the bytes depend on nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: whole(value.detach()).float().cpu().contiguous() for name, value in model.state_dict().items()}
    write_tensors(folder / WEIGHTS, weights)
    _write_durably(folder / CONFIG, _json(model.config.to_dict()))
    _sync_folder(folder)


def load_model(folder: Path) -> GPT:
    """Undo `save_model`: a model on the CPU, ready to evaluate. Raises CorruptCheckpoint, naming the file."""
    try:
        config = GPTConfig.from_dict(json.loads((folder / CONFIG).read_bytes()))
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise CorruptCheckpoint(f"{error.filename or folder}: missing; a model is {WEIGHTS} and {CONFIG}") from error
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptCheckpoint(f"{folder}: cannot be read as a model ({error})") from error
    with without_numbers():
        model = GPT(config)
    _load_weights(model, weights, folder)
    return model.eval()


def _load_weights(model: GPT, weights: Mapping[str, Tensor], source: Path) -> None:
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        expected = tuple(wanted[name].shape) if name in wanted else "nothing"
        found = tuple(weights[name].shape) if name in weights else "nothing"
        if expected != found:
            raise CorruptCheckpoint(f"{source / WEIGHTS}: tensor {name} should be {expected}, found {found}")
    placed = {name: like(wanted[name], value) for name, value in weights.items()}
    model.load_state_dict(placed, assign=any(value.is_meta for value in wanted.values()))


def _fault(path: Path) -> str | None:
    """Why this folder is not a whole checkpoint, or None."""
    try:
        digests = json.loads((path / DIGESTS).read_bytes())
        for name, digest in digests.items():
            if _digest(path / name) != digest:
                return f"{name} has been altered"
        if set(digests) != {STATE, *json.loads((path / STATE).read_bytes())["files"]}:
            return f"{DIGESTS} does not list the files of a checkpoint"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, AttributeError, TypeError, KeyError):
        return f"{DIGESTS} cannot be read"
    return None


def _digest(path: Path, *, durable: bool = False) -> str:
    with path.open("rb") as file:
        if durable:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _seal(temporary: Path, target: Path) -> None:
    """See that all files are on the disk, write the list of their digests, and give the folder its name."""
    digests = {path.name: _digest(path, durable=True) for path in sorted(temporary.iterdir())}
    _write_durably(temporary / DIGESTS, _json(digests))
    _sync_folder(temporary)
    if target.exists():  # the same step again, after falling back to an older checkpoint
        shutil.rmtree(target)
    temporary.rename(target)
    _sync_folder(target.parent)


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, the newest first, whole or not."""
    return [int(path.name.removeprefix("step-")) for path in _newest_first(folder)]


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if FOLDER_NAME.fullmatch(p.name)), reverse=True)


def _prune(folder: Path, new: Path) -> None:
    """Remove what is older than the two newest whole ones, and what is newer than the new one.

    A run goes on from the newest whole one, so what is newer was damaged, and would be taken for the newest for ever.
    The new one was sealed a moment ago, and those before it are read only where one is to go for their sake: that is
    1.5 GB of a model of 124M parameters.
    """
    for path in _newest_first(folder):
        if path > new:
            shutil.rmtree(path)
    found = _newest_first(folder)
    if len(found) <= KEPT:
        return
    whole = 0
    for path in found:
        if whole >= KEPT:
            shutil.rmtree(path)
        elif path == new or _fault(path) is None:
            whole += 1


def _sweep(folder: Path) -> None:
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
