"""Goes in: one step of training after another. Comes out: how fast it goes, for the eye and for the run's record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from model.parallel import World
    from model.training import Step, TrainingState

SYSTEM_EVERY_SECONDS = 10.0


class Clock:
    """Pace of the training since this process began, its share of the hardware's peak, and what is left."""

    def __init__(self, state: TrainingState, world: World) -> None:
        """Look up or measure the device's peak (a tenth of a second on a CPU)."""
        from model.hardware import peak_flops
        from model.plan import training_flops_per_token

        self._steps = state.config.steps
        self._steps_before = state.step
        self._tokens_before = state.tokens_seen
        config = state.model.config
        self._flops_per_token = training_flops_per_token(config, config.context_length)
        own_peak = peak_flops(state.device, state.precision)
        # Processes on a CPU share its cores; GPUs add up.
        self._peak = own_peak and own_peak * (world.size if state.device.type == "cuda" else 1)
        self._system_due = 0.0
        psutil.cpu_percent()
        self._began = time.monotonic()

    def tokens_per_second(self, step: Step) -> float:
        """Mean since this process began, evaluation included."""
        return (step.tokens_seen - self._tokens_before) / max(1e-9, time.monotonic() - self._began)

    def utilisation(self, step: Step) -> float | None:
        """Share of the device's peak that the model's own arithmetic takes (MFU); None where the peak is not known."""
        return self._flops_per_token * self.tokens_per_second(step) / self._peak if self._peak else None

    def pace(self, step: Step) -> str:
        """Tokens per second, share of the peak and time left, for the eye."""
        elapsed = time.monotonic() - self._began
        left = elapsed / max(1, step.step - self._steps_before) * (self._steps - step.step)
        share = self.utilisation(step)
        peak = f" · {share:.0%} of peak" if share is not None else ""
        return f"{self.tokens_per_second(step):,.0f} tokens/s{peak} · {int(left // 60)}:{int(left % 60):02d} left"

    def figures(self, step: Step) -> dict[str, float]:
        """The same for the run's record; every ten seconds the machine's load too, under MLflow's names for it.

        MLflow's own sampling needs a connection to the server from this process, which no stage has.
        """
        found = {"tokens_per_second": self.tokens_per_second(step), "grad_norm": step.grad_norm}
        share = self.utilisation(step)
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
