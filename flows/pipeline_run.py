"""Goes in: a plan. Comes out: what became of each of its stages; at most as many are at work as the machine has parts.

It needs no Prefect, so a run's first stages do not wait for Prefect to load or its server to come up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from flows.display import Display
from flows.stage_process import StageProcess, StoppedError
from pipeline import versioning
from pipeline.errors import HomegrownError
from pipeline.processor import HALVES

State = Literal["cached", "done", "failed", "stopped", "not run"]


class TrackedRun(Protocol):
    """What the tracking spool gives: the parent of the stages' runs."""

    def environment(self) -> dict[str, str]:
        """What a stage must find in its environment to record itself below this run."""

    def cached(self, stage: str) -> None:
        """Record that a stage had nothing to do."""


@dataclass(frozen=True)
class Outcome:
    """What became of one stage in one run."""

    stage: str
    state: State
    seconds: float = 0.0
    error: HomegrownError | None = None


@dataclass
class PipelineRun:
    """One run: its plan, the processes that are at work, and what has become of each stage so far.

    A stage is started early, by `_go_ahead`, or by `reproduce`, which Prefect's tasks call. The first call of that ends
    the going ahead, and takes over what was started early. What nobody took over, since Prefect never came, `finish`
    settles. `_changed` guards who starts a stage and who takes it over.
    """

    root: Path
    plan: list[versioning.Stage]
    force: frozenset[str]
    display: Display
    tracking: TrackedRun
    started: float = field(default_factory=time.monotonic)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    stopped_by: signal.Signals | None = None
    _processes: dict[str, StageProcess] = field(default_factory=dict)
    """Those at work, or ended with nobody having heard how."""
    _early: set[str] = field(default_factory=set)
    """Those of them that wait to be taken over."""
    _begun: set[str] = field(default_factory=set)
    """Those that were started, however they ended."""
    _taken_over: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def stage(self, name: str) -> versioning.Stage:
        """The plan's entry of that name."""
        return next(stage for stage in self.plan if stage.name == name)

    def start_early(self) -> None:
        """Start the first stage that waits for nothing, and after it the next ones, for as long as Prefect is not up.

        A project's first server takes half a minute; the machine would be idle for most of it.
        """
        if any(stage.ready for stage in self.plan):
            threading.Thread(target=self._go_ahead, daemon=True).start()

    def _go_ahead(self) -> None:
        """Bring stages up to date one after another, until one fails or `reproduce` is called for any."""
        up_to_date = {stage.name for stage in self.plan if stage.cached}
        for stage in self.plan:
            if stage.cached or not up_to_date.issuperset(stage.upstreams):
                continue
            with self._changed:
                if self._taken_over or self.stopped_by:
                    return
                process = self._launch(stage.name)
                self._early.add(stage.name)
            if process.wait():
                return
            up_to_date.add(stage.name)

    def reproduce(self, name: str, log: Any) -> Outcome:
        """Let DVC bring one stage up to date, its lines shown and logged; raises what the stage ended with.

        As many do so at once as the processor has parts to give; further ones wait here for one to end.
        """
        with self._changed:
            self._taken_over = True
            while not self._has_its_turn(name):
                self._changed.wait(0.5)  # a signal that stops the run notifies nobody
            if name in self._early:
                self._early.remove(name)
                process = self._processes[name]
            elif self.stopped_by:
                raise StoppedError(f"{name}: not started", saved=False)
            else:
                process = self._launch(name)
        try:
            self.display.started(name)
            for event in process.events():
                if isinstance(event, dict):
                    self.display.progress(name, event)
                elif event.strip():
                    self.display.line(name, event)
                    log(event)
            ending = process.end()
            if ending.error:
                raise ending.error
            outcome = Outcome(name, "done" if ending.ran else "cached", process.seconds)
            self.settle(outcome)
            return outcome
        finally:
            with self._changed:
                del self._processes[name]
                self._changed.notify_all()

    def _has_its_turn(self, name: str) -> bool:
        """Whether a stage may begin: of those that could, the first in the plan do, whichever thread came first.

        The plan's order is dvc.yaml's, where long trainings stand before what is short.
        """
        if self.stopped_by:
            return True
        up_to_date = {stage for stage, outcome in self.outcomes.items() if outcome.state in ("done", "cached")}
        begun = self.outcomes.keys() | self._processes.keys()
        able = [s.name for s in self.plan if s.name not in begun and up_to_date.issuperset(s.upstreams)]
        free = HALVES - len(self._processes)
        return name in self._early or (free > 0 and name not in able[free:])

    def settle(self, outcome: Outcome) -> None:
        """Note what became of a stage, here, on the screen and in the tracked run."""
        with self._changed:
            self.outcomes[outcome.stage] = outcome
            self._changed.notify_all()
        self.display.ended(outcome.stage, outcome.state, outcome.seconds, str(outcome.error or ""))
        if outcome.state == "cached":
            self.tracking.cached(outcome.stage)

    def finish(self) -> None:
        """End what is still at work, mark what never began, and put dvc.lock in order."""
        with self._changed:
            self._taken_over = True
        for name in self._early:
            process = self._processes[name]
            if process.running:
                process.stop()
                continue
            ending = process.end()
            if isinstance(ending.error, StoppedError):
                state: State = "stopped"
            elif ending.error:
                state = "failed"
            else:
                state = "done" if ending.ran else "cached"
            self.settle(Outcome(name, state, process.seconds, ending.error))
        self._early.clear()
        for stage in self.plan:
            if stage.name not in self.outcomes:
                self.settle(Outcome(stage.name, "not run"))

    @property
    def error(self) -> HomegrownError | None:
        """Why the run did not reach its end: the first stage's error, or that it was stopped."""
        errors = [outcome.error for outcome in self.outcomes.values() if outcome.error]
        return next((e for e in errors if not isinstance(e, StoppedError)), errors[0] if errors else None)

    def stop(self, number: signal.Signals) -> None:
        """Ask every working stage to save and end; returns at once. Asked again, kill them and leave."""
        if self.stopped_by:
            for process in list(self._processes.values()):
                process.kill()
            os._exit(128 + number)
        self.stopped_by = number
        # In threads, because a signal may arrive in the middle of a print.
        notice = "stopping: working stages save what they can (once more to end at once) …"
        threading.Thread(target=self.display.notice, args=(notice,), daemon=True).start()
        for process in list(self._processes.values()):
            threading.Thread(target=process.stop, daemon=True).start()

    @contextlib.contextmanager
    def stops_on_signals(self) -> Iterator[None]:
        """While this holds, Ctrl-C and SIGTERM stop the stages and let the run end in order. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, frame: FrameType | None) -> None:
            self.stop(signal.Signals(number))

        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, action in previous.items():
                signal.signal(number, action)

    def _launch(self, name: str) -> StageProcess:
        look = self.stage(name).look
        process = StageProcess(
            self.root,
            name,
            self.tracking.environment(),
            force=name in self.force,
            look=look,
            again=name in self._begun,
        )
        self._processes[name] = process
        self._begun.add(name)
        if self.stopped_by:  # the signal came while it was being started
            threading.Thread(target=process.stop, daemon=True).start()
        return process
