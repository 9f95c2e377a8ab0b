"""Goes in: a run's plan, which is DVC's graph. Comes out: one Prefect task per stage, submitted in DVC's order."""

from __future__ import annotations

from typing import Any

from prefect.futures import PrefectFuture

from flows.pipeline_run import PipelineRun
from flows.stage_task import RETRY_DELAYS_SECONDS, deserves_retry, reproduce_stage


def submit(run: PipelineRun) -> dict[str, PrefectFuture[Any]]:
    """The futures of all stages. Each waits for its upstreams only, so independent stages run side by side."""
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in run.plan:
        task = reproduce_stage.with_options(
            name=stage.name,
            task_run_name=stage.name,
            retries=len(RETRY_DELAYS_SECONDS),
            retry_delay_seconds=list(RETRY_DELAYS_SECONDS),
            retry_condition_fn=lambda task, task_run, state: deserves_retry(state.data, task_run.run_count),
        )
        futures[stage.name] = task.submit(
            stage.name, return_state=False, wait_for=[futures[above] for above in stage.upstreams]
        )
    return futures
