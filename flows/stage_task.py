"""The one task. Goes in: a stage's name. Comes out: a Prefect state that says what DVC made of it.

`Cached` when DVC found nothing to do, `Completed` when the stage ran, `Cancelled` when it was told to stop, and
`Failed` with the stage's own error otherwise. Whether a failure is tried again is decided by the error's class.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed

from flows.pipeline_run import Outcome, PipelineRun
from flows.stage_process import StoppedError
from pipeline.errors import DependencyError, HomegrownError
from pipeline.versioning import BusyError

RETRY_DELAYS_SECONDS = (1, 5)
# A service that is away for a moment and a DVC that is busy may well be back in a few seconds. A wrong setting, bad
# data, a full disk, a refused gate or a broken digest will not be, nor will a stage that asks to be run again later.
RETRIED: tuple[type[HomegrownError], ...] = (DependencyError, BusyError)

# Prefect wants parameters it can store and show; the run holds locks and processes, so it travels beside them.
current_run: ContextVar[PipelineRun] = ContextVar("current_run")


@task(persist_result=False, cache_policy=NO_CACHE)
def reproduce_stage(stage: str) -> State[Any]:
    """Bring one stage up to date."""
    return bring_up_to_date(current_run.get(), stage, get_run_logger().info, attempts_so_far())


def bring_up_to_date(run: PipelineRun, stage: str, log: Any, attempts: int) -> State[Any]:
    """Do what the task is for; what became of the stage then stands in `run`. The first of its attempts is 1."""
    if run.stage(stage).cached:
        run.settle(Outcome(stage, "cached"))
        return Completed(name="Cached", message="DVC: unchanged")
    begun = time.monotonic()
    try:
        outcome = run.reproduce(stage, log)
    except StoppedError as error:
        run.settle(Outcome(stage, "stopped", time.monotonic() - begun, error))
        return Cancelled(message=str(error))
    except HomegrownError as error:
        if deserves_retry(error, attempts):
            run.display.notice(f"{error}; trying again in {RETRY_DELAYS_SECONDS[attempts - 1]} s")
        else:
            run.settle(Outcome(stage, "failed", time.monotonic() - begun, error))
        raise
    if outcome.state == "cached":
        return Completed(name="Cached", message="DVC: unchanged, or restored from its cache")
    return Completed(message=f"ran in {outcome.seconds:.1f} s")


def make_up_for(run: PipelineRun, lost: Mapping[str, str]) -> None:
    """Bring up to date, in the plan's order, what could have been and was not: Prefect lost its task, saying `lost`."""
    for stage in run.plan:
        up_to_date = {outcome.stage for outcome in run.outcomes.values() if outcome.state in ("done", "cached")}
        if run.stopped_by or stage.name in run.outcomes or not up_to_date.issuperset(stage.upstreams):
            continue
        run.display.notice(f"{stage.name}: done without Prefect, which lost its task ({lost[stage.name]})")
        with contextlib.suppress(HomegrownError):  # it stands in the stage's outcome
            bring_up_to_date(run, stage.name, lambda _line: None, len(RETRY_DELAYS_SECONDS) + 1)


def deserves_retry(error: object, attempts: int) -> bool:
    """Whether the error may be gone in a moment, and has not been given its chances yet."""
    return isinstance(error, RETRIED) and attempts <= len(RETRY_DELAYS_SECONDS) and not current_run.get().stopped_by


def attempts_so_far() -> int:
    """How often the task at hand has been begun."""
    context = TaskRunContext.get()
    return context.task_run.run_count if context else 1
