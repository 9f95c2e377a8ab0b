"""Goes in: a model, batches and a place for checkpoints. Comes out: the trained model and its history.

What `model.training.train` leaves to its consumer is here, once for pretraining and fine-tuning: resume from the newest
valid checkpoint, report, evaluate, save every so often, stop early where nothing is gained any more, and on SIGTERM or
Ctrl-C save and leave with exit code 75. Of several processes all train and evaluate; the first reports and writes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.digests import digest_of
from pipeline.errors import ConfigurationError, DataError, DependencyError, IntegrityError, TryAgainError
from pipeline.params import Compute
from pipeline.report import Report, SilentReport
from pipeline.training_pace import Clock

if TYPE_CHECKING:
    import torch

    from model.batches import Batch
    from model.gpt import GPT
    from model.parallel import World
    from model.training import Objective, TrainingConfig, TrainingState

SCRATCH = Path("data/scratch")
HISTORY_FILE = "history.jsonl"
BEST = "best"

Row = dict[str, float]
Evaluate = Callable[["GPT", int], Mapping[str, float]]


@contextmanager
def model_errors(where: str) -> Iterator[None]:
    """Within the block, what model/ raises becomes our errors.

    A wrong setting 64, bad data 65, a compiler that fails 69, altered bytes 77.
    """
    from model.checkpoint import CheckpointMismatch, CorruptCheckpoint
    from model.compiling import CannotCompile
    from model.training import Diverged

    try:
        yield
    except (CheckpointMismatch, CorruptCheckpoint) as error:
        raise IntegrityError(f"{where}: {error}") from error
    except Diverged as error:
        raise DataError(f"{where}: {error}") from error
    except CannotCompile as error:
        raise DependencyError(f"{where}: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def device_of(compute: Compute) -> torch.device:
    """Where to compute; ConfigurationError if this machine has no such device."""
    from model.hardware import device_for

    with model_errors("compute.device"):
        return device_for(compute.device)


def run_training(
    label: str,
    model: GPT,
    batches: Callable[[int], Batch],
    config: TrainingConfig,
    *,
    compute: Compute,
    identity: Mapping[str, str],
    code: str,
    evaluate: Evaluate,
    evaluate_every: int,
    report: Report,
    patience: int = 0,
    world: World | None = None,
    objective: Objective | None = None,
    scratch: Path = SCRATCH,
) -> Trained:
    """Train `model` in place to the last step; its history comes back, a row per step, with what `evaluate` found.

    `identity` names the params and inputs by digest: checkpoints under another identity, or of another `config`, are
    not resumed but removed. `code` is the digest of the code that trains: of other code, another machine or torch, an
    unfinished run is refused, or goes on if `compute` allows it, and a finished one is done anew.
    `evaluate(model, step)` is called every `evaluate_every` steps and at the end; after `patience` calls in a row
    without a new lowest "bits_per_byte", or "validation_loss" where it does not say that, training ends, and the model
    is the one that had the lowest. Adapters are merged at the end. `objective` stands in for the model's own loss.
    Raises TryAgainError when stopped by a signal, with everything saved, Diverged where the last step or look is not
    finite, and what `model_errors` says.
    """
    from model.checkpoint import CheckpointSaver, load_checkpoint, load_model
    from model.lora import merged
    from model.parallel import ALONE, gathered
    from model.training import TrainingState, describe_compute, train

    world = world or ALONE
    identity = {**identity, "training": digest_of(asdict(config))}
    if world.rank:
        report = SilentReport()
    folder = _own_folder(scratch, label, identity, clear=world.rank == 0)
    fingerprint: dict[str, str | int | float] = {**identity, "code": code}
    state = TrainingState(model, config, compute.device, world, objective)
    if world.rank == 0 and (changes := _finished_otherwise(folder, state, fingerprint, patience)):
        report.note(f"trained before, but not so: {'; '.join(changes)}; training anew")
        shutil.rmtree(folder)
        folder.mkdir()
    world.wait()
    resumed = load_checkpoint(folder, state, fingerprint, allow_changes=compute.allow_changed_resume)
    if resumed:
        for torn in resumed.skipped:
            report.note(f"a damaged checkpoint was passed over: {torn}")
        if resumed.path:
            report.note(f"resuming after step {state.step:,} of {config.steps:,}")
        else:
            report.note(f"no checkpoint is whole (damaged: {len(resumed.skipped)}), so training begins anew")
        for change in resumed.changes:
            report.note(f"the run goes on with a change, so its weights will differ in their last bits: {change}")
    world.wait()
    history = _History(folder / HISTORY_FILE, state.step, writes=world.rank == 0)
    where = describe_compute(state)
    report.note(
        f"{model.config.parameter_count():,} parameters on {where['device']}, {where['precision']}, "
        f"{where['threads']} threads" + (f", {world.size} processes" if world.size > 1 else "")
    )
    looks = _Looks(patience, history.rows)
    if world.rank == 0:
        _drop_bests(folder, lambda step: step > state.step)  # of steps that are to be done again, perhaps otherwise
    clock = Clock(state, world)
    steps_before = saved_step = state.step
    saved_at = time.monotonic()
    with _stop_requested(insistent=world.size == 1) as stop, CheckpointSaver(folder, fingerprint) as saver:
        for step in [] if looks.in_vain else train(model, batches, config, state):
            clock.tick(step)
            if state.compiler_fault and step.step == steps_before + 1:
                report.note(f"not compiled, for the compiler failed: {state.compiler_fault}")
            row: Row = {"step": step.step, "tokens_seen": step.tokens_seen, "learning_rate": step.learning_rate}
            if step.skipped:
                report.note(
                    f"step {step.step:,}: loss {step.loss:.4g}, gradient {step.grad_norm:.4g}: left out, weights kept"
                )
            else:
                row["train_loss"] = step.loss
            report.progress(step.step, config.steps, "steps", f"loss {step.loss:.3f} · {clock.pace()}")
            finished = step.step == config.steps
            if finished or step.step % evaluate_every == 0:
                with state.averaged_weights():
                    found = evaluate(model, step.step)
                    row.update(found)
                    if looks.better(step.step, found):
                        best = gathered(merged(model))
                        if world.rank == 0:
                            _save_best(folder, step.step, best, going_on_from=saved_step)
                report.note(f"step {step.step:,}: " + " · ".join(f"{k} {v:.4g}" for k, v in found.items()))
            history.add(row)
            if looks.in_vain:
                report.note(f"step {step.step:,}: no gain in {patience} looks, so training ends here")
                finished = True
            if finished:
                _require_finite(state, row)
            # Tokens per second and the like go to the record only: they are not the same twice.
            figures = {key: value for key, value in row.items() if key != "step"}
            report.metrics({**figures, **clock.figures(step)}, step.step)
            saver.raise_errors()
            due = time.monotonic() - saved_at > compute.checkpoint_every_seconds
            stopping, due = world.any(stop.is_set(), due, device=state.device)
            # What is saved once the figures are not finite would push out the checkpoints from before. A run that is
            # stopped then is saved as it is, for it goes on as if it had not been.
            if (due and not state.skipped_in_a_row) or stopping or finished:
                history.flush()
                saver.save(state)
                saved_at, saved_step = time.monotonic(), state.step
            if finished:
                break
            if stopping:
                saver.wait()
                raise TryAgainError(
                    f"{label}: stopped after step {step.step:,} of {config.steps:,} with everything saved; "
                    "run the same command again to go on from there"
                )
    trained = gathered(merged(model), state.averaged)
    world.wait()
    if looks.best_step:
        trained = load_model(_best(folder, looks.best_step))
    return Trained(trained, history.rows, list(state.changes), steps_before)


@dataclass(frozen=True)
class Trained:
    """What a training gives."""

    model: GPT
    """The weights to keep: the last, their running mean, or the best that were seen."""
    history: list[Row]
    """A row per step."""
    changes: list[str]
    """What was changed at a resume; not empty: the weights are not bit for bit those of an uninterrupted run."""
    steps_before: int
    """Steps that were done before this process began."""

    @property
    def facts(self) -> dict[str, list[str]]:
        """For the artefact's manifest: nothing, or that the run was changed on its way."""
        return {"resumed_with_changes": self.changes} if self.changes else {}


def _require_finite(state: TrainingState, row: Row) -> None:
    """Refuse to end with a last step, or a look after it, of infinite or undefined figures."""
    from model.training import Diverged

    step = int(row["step"])
    if state.skipped_in_a_row:
        raise Diverged(f"step {step:,}, the last, had no finite loss and gradient")
    if not math.isfinite(loss := row["validation_loss"]):
        raise Diverged(f"after step {step:,}, the last, validation_loss is {loss}")


class _Looks:
    """What the looks at the validation split have found so far, where patience with them has an end."""

    def __init__(self, patience: int, rows: list[Row]) -> None:
        """Take in the looks of the steps already done."""
        self._patience = patience
        self._best = math.inf
        self.best_step = 0
        """Of the best look; 0 where there was none."""
        self._since_best = 0
        for row in rows:
            if "validation_loss" in row:
                self.better(int(row["step"]), row)

    def better(self, step: int, found: Mapping[str, float]) -> bool:
        """Take in the look after a step; whether it found less than every one before it.

        Without patience none does, and an infinite or undefined look never does.
        """
        if not self._patience:
            return False
        measure = found.get("bits_per_byte", found["validation_loss"])
        if measure < self._best:
            self._best, self.best_step, self._since_best = measure, step, 0
            return True
        self._since_best += 1
        return False

    @property
    def in_vain(self) -> bool:
        """Whether as many looks as there is patience for found nothing better than one before."""
        return bool(self._patience) and self._since_best >= self._patience


def _best(folder: Path, step: int) -> Path:
    return folder / f"{BEST}-{step:08d}"


def _save_best(folder: Path, step: int, model: GPT, *, going_on_from: int) -> None:
    """Keep the weights of the best look so far, whole or not at all, and those that a resumed run may still need.

    It would go on from a checkpoint on disk, or from the one that is still being written, of step `going_on_from`; the
    best up to there must be there too, in case its steps are not bitwise the same again.
    """
    from model.checkpoint import checkpoint_steps, save_model

    needed = {
        max((best for best in _bests(folder) if best <= start), default=0)
        for start in (*checkpoint_steps(folder), going_on_from)
    }
    partial = folder / f".{BEST}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model)
    partial.rename(_best(folder, step))
    _drop_bests(folder, lambda best: best != step and best not in needed)


def _bests(folder: Path) -> list[int]:
    """The steps whose weights are kept for having been the best."""
    return [int(path.name.removeprefix(f"{BEST}-")) for path in folder.glob(f"{BEST}-*")]


def _drop_bests(folder: Path, unwanted: Callable[[int], bool]) -> None:
    for step in filter(unwanted, _bests(folder)):
        shutil.rmtree(_best(folder, step))


class _History:
    """The rows of every step so far, on disk too, so that a resumed run's history is whole."""

    def __init__(self, path: Path, steps_done: int, *, writes: bool = True) -> None:
        """Read the rows up to the step that the checkpoint stands at; what a killed run wrote after it is dropped."""
        self.rows: list[Row] = []
        self._writes = writes
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    break  # torn by a kill, and so later than the checkpoint, which waited for its rows to be on disk
                if row["step"] <= steps_done:
                    self.rows.append(row)
        self._path = path
        self._unwritten: list[Row] = []
        if not writes:
            return
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        _append(self.rows, partial)
        partial.replace(path)

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)
        self._unwritten.append(row)

    def flush(self) -> None:
        """Make every row so far durable."""
        if self._writes:
            _append(self._unwritten, self._path)
        self._unwritten.clear()


def _append(rows: list[Row], path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _stop_requested(*, insistent: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; if `insistent`, a second signal ends the process at once.

    Of several processes each gets Ctrl-C twice, from the terminal and from the process that watches.
    """
    stop = threading.Event()

    def request(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set() and insistent:
            os._exit(TryAgainError.exit_code)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finished_otherwise(
    folder: Path, state: TrainingState, fingerprint: dict[str, str | int | float], patience: int
) -> list[str]:
    """How a run that was trained to its end differs from this one; nothing if it does not, or has steps to do."""
    from model.checkpoint import differences

    step, changes = differences(folder, state, fingerprint)
    if not changes or step == state.config.steps:
        return changes
    rows = _History(folder / HISTORY_FILE, step, writes=False).rows
    return changes if _Looks(patience, rows).in_vain else []


def _own_folder(scratch: Path, label: str, identity: Mapping[str, str], *, clear: bool) -> Path:
    """The folder for this identity's checkpoints; those of other identities of the same label are of no more use."""
    key = "-".join(value[:12] for _, value in sorted(identity.items()))
    folder = scratch / label / key
    if clear:
        for other in folder.parent.glob("*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
