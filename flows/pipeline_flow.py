"""The flow. Goes in: targets. Comes out: every stage they need, brought up to date, and a Prefect state that says so.

Import it only where Prefect's environment is set (`flows.servers.prefect_environment`): Prefect reads it on import.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prefect
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import graph
from flows.display import PlainDisplay
from flows.pipeline_run import PipelineRun
from flows.preparation import prepared
from flows.processes import birth
from flows.project import STATE, project_root
from flows.stage_process import StoppedError
from flows.stage_task import current_run, make_up_for
from pipeline.errors import HomegrownError, TryAgainError

FLOW_NAME = "homegrown"
OWNERS = STATE / "flow_runs"
UNOWNED_SECONDS = 120.0

# Its "still processing" is of no interest to anybody.
logging.getLogger("EventsWorker").setLevel(logging.ERROR)

# A run that the command line has prepared. A scheduled run has none and prepares its own.
handed_over: ContextVar[PipelineRun | None] = ContextVar("handed_over", default=None)


def _name_of_run() -> str:
    targets = flow_run.parameters.get("targets") or ["all"]
    return f"{'+'.join(targets)} {time.strftime('%Y-%m-%d %H:%M:%S')}"


@prefect.flow(
    name=FLOW_NAME,
    flow_run_name=_name_of_run,
    # Prefect's tasks wait for those above them in threads, so there is one for each; `PipelineRun` counts who works.
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]  # its futures are futures
    persist_result=False,
    validate_parameters=False,
)
def pipeline(targets: list[str] | None = None, force: list[str] | None = None) -> State[Any]:
    """Bring the targets, or everything, up to date."""
    # A scheduled run gets this function pickled, with all it names; what cannot be pickled is named below only.
    return _bring_up_to_date(targets or [], force or [])


def _bring_up_to_date(targets: list[str], force: list[str]) -> State[Any]:
    if run := handed_over.get():
        return drive(run)
    state: State[Any]
    try:
        with prepared(project_root(Path.cwd()), targets, force, PlainDisplay()) as run:
            state = drive(run)
    except StoppedError as error:
        state = Cancelled(message=str(error))
    except TryAgainError as error:
        state = Cancelled(name="Skipped", message=f"{error} (exit code {error.exit_code})")
    except HomegrownError as error:
        state = Failed(message=f"{error} (exit code {error.exit_code})")
    return state


def drive(run: PipelineRun) -> State[Any]:
    """Run the plan's stages as tasks of the flow at hand, to the end of each that can be reached."""
    current_run.set(run)
    # Prefect has put its own SIGTERM handler in place, which would leave the stages alone.
    with run.stops_on_signals(), _owned(run.root):
        futures = graph.submit(run)
        for future in futures.values():
            future.wait()
        make_up_for(run, {name: _said_of(future) for name, future in futures.items() if name not in run.outcomes})
    if run.stopped_by:
        return Cancelled(message=f"stopped by {run.stopped_by.name}")
    if run.error:
        return Failed(message=f"{run.error} (exit code {run.error.exit_code})")
    count = sum(outcome.state == "cached" for outcome in run.outcomes.values())
    return Completed(message=f"{len(run.plan) - count} stages run, {count} cached")


def _said_of(future: Any) -> str:
    """The state of a task, or why it cannot be had: Prefect's server may be what was lost."""
    try:
        return str(future.state)
    except Exception as error:
        return type(error).__name__


def run_as_flow(run: PipelineRun, targets: list[str], force: list[str]) -> None:
    """Drive a prepared run as a run of the flow. What became of the stages stands in `run`, whatever Prefect says."""
    token = handed_over.set(run)
    try:
        # The heartbeat's thread sleeps in whole seconds and is waited for at the end; we have `reconcile` instead.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            pipeline(targets=targets, force=force, return_state=True)
    finally:
        handed_over.reset(token)


def deliver(timeout_seconds: float) -> None:
    """Hand Prefect what it is still owed, states and log lines, for so long at most. Afterwards no flow may run."""
    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=timeout_seconds, at_exit=True)


def reconcile(root: Path) -> int:
    """Mark as crashed the runs that still count as running though their process is gone; give how many there were.

    Call it under the run lock. A run that was never claimed gets a while to be so.
    """

    mended = 0
    with get_client(sync_client=True) as client:
        unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}})
        of_ours = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME]))
        for left in client.read_flow_runs(
            flow_filter=of_ours, flow_run_filter=unfinished, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=100
        ):
            owner = root / OWNERS / f"{left.id}.json"
            begun = left.start_time or left.created
            age_seconds = (datetime.now(UTC) - begun).total_seconds() if begun else 0.0
            if _lives(owner) or (not owner.exists() and age_seconds < UNOWNED_SECONDS):
                continue
            crashed: State[Any] = Crashed(message="its process ended without a word; found by the next run")
            client.set_flow_run_state(left.id, crashed, force=True)
            for task_run in client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [left.id]}}),
                task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}),
                sort=TaskRunSort.EXPECTED_START_TIME_DESC,
                limit=200,
            ):
                client.set_task_run_state(task_run.id, crashed, force=True)
            mended += 1
    for owner in (root / OWNERS).glob("*.json"):
        if not _lives(owner):
            owner.unlink(missing_ok=True)
    return mended


def _lives(owner: Path) -> bool:
    """Whether the process that an owner's file names is still there."""
    try:
        facts = json.loads(owner.read_text(encoding="utf-8"))
        return bool(birth(facts["pid"]) == facts["born"])
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def _owned(root: Path) -> Any:
    """Say in a file which process this flow run lives in; it stays until `reconcile` of a later run finds it dead."""
    owner = root / OWNERS / f"{flow_run.id}.json"
    owner.parent.mkdir(parents=True, exist_ok=True)
    facts = {"pid": os.getpid(), "born": birth(os.getpid())}
    owner.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    yield
