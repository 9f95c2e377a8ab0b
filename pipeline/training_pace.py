"""Goes in: one step of training after another. Comes out: how fast it goes, for the eye and for the run's record."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from model.parallel import World
    from model.training import Step, TrainingState

SYSTEM_EVERY_SECONDS = 10.0
RECENT_SECONDS = 30.0


@dataclass(frozen=True)
class _Mark:
    """How far the training was, and when."""

    at: float
    step: int
    tokens: int


class Clock:
    """Pace of the training of late, its share of the hardware's peak, and what is left.

    The first step, which compiles and pages in, counts only as long as there is no other.
    """

    def __init__(self, state: TrainingState, world: World) -> None:
        """Look up or measure the device's peak (a tenth of a second on a CPU)."""
        from model.hardware import peak_flops
        from model.plan import training_flops_per_token

        self._steps = state.config.steps
        config = state.model.config
        self._flops_per_token = training_flops_per_token(config, config.context_length)
        own_peak = peak_flops(state.device, state.precision)
        # Processes on a CPU share its cores; GPUs add up.
        self._peak = own_peak and own_peak * (world.size if state.device.type == "cuda" else 1)
        self._system_due = 0.0
        psutil.cpu_percent()
        self._beginning = self._since = _Mark(time.monotonic(), state.step, state.tokens_seen)
        self._recent = deque([self._beginning])

    def tick(self, step: Step) -> None:
        """A step is done; called after each, before anything else is made of it."""
        mark = _Mark(time.monotonic(), step.step, step.tokens_seen)
        if len(self._recent) == 2 and self._recent[0] is self._beginning:
            self._recent.popleft()
            self._since = self._recent[0]
        self._recent.append(mark)
        while self._recent[1].at < mark.at - RECENT_SECONDS:
            self._recent.popleft()

    @property
    def tokens_per_second(self) -> float:
        """Mean of the last half minute, evaluation included."""
        first, last = self._recent[0], self._recent[-1]
        return (last.tokens - first.tokens) / max(1e-9, last.at - first.at)

    @property
    def utilisation(self) -> float | None:
        """Share of the device's peak that the model's own arithmetic takes (MFU); None where the peak is not known."""
        return self._flops_per_token * self.tokens_per_second / self._peak if self._peak else None

    @property
    def seconds_left(self) -> float:
        """What the steps that are left take, if they take what those since the first have taken in the mean."""
        last = self._recent[-1]
        return (last.at - self._since.at) / max(1, last.step - self._since.step) * (self._steps - last.step)

    def pace(self) -> str:
        """Tokens per second, share of the peak and time left, for the eye."""
        share, left = self.utilisation, int(self.seconds_left)
        peak = f" · {share:.0%} of peak" if share is not None else ""
        return f"{self.tokens_per_second:,.0f} tokens/s{peak} · {left // 60}:{left % 60:02d} left"

    def figures(self, step: Step) -> dict[str, float]:
        """The same for the run's record; every ten seconds the machine's load too, under MLflow's names for it.

        MLflow's own sampling needs a connection to the server from this process, which no stage has.
        """
        found = {"tokens_per_second": self.tokens_per_second, "grad_norm": step.grad_norm}
        share = self.utilisation
        if share is not None:
            found["mfu"] = share
        if time.monotonic() >= self._system_due:
            self._system_due = time.monotonic() + SYSTEM_EVERY_SECONDS
            memory = psutil.virtual_memory()
            found |= {
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_percentage": memory.percent,
                "system/system_memory_usage_megabytes": memory.used / 1e6,
                "process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
            }
        return found
