"""Goes in: what to run. Comes out: a run of the flow on the project's own Prefect server, and its summary."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows import display as displays
from flows import servers, summary
from flows.pipeline_run import PipelineRun
from flows.preparation import prepared
from pipeline.errors import HomegrownError


def run(
    root: Path, targets: Sequence[str], force: Sequence[str], settings: Mapping[str, str], *, as_json: bool = False
) -> None:
    """Run the targets and print the summary, or one JSON object; raises the run's error after it."""
    begun = time.monotonic()
    display = displays.choose(to_stderr=as_json)
    work: PipelineRun | None = None
    error: HomegrownError | None = None
    try:
        with prepared(root, targets, force, display, settings, meanwhile=lambda: _load_prefect(root)) as work:
            _drive(root, work, list(targets), list(force))
    except HomegrownError as caught:
        error = caught
    finally:
        display.close()
    if as_json:
        print(json.dumps(summary.as_object(root, work, time.monotonic() - begun, error), indent=2))
    elif work and any(outcome.state != "not run" for outcome in work.outcomes.values()):
        summary.show(root, work, time.monotonic() - begun)
    if error:
        raise error


def _load_prefect(root: Path) -> None:
    """Load it while there is something else to wait for, if its server is up; it reads the environment on import."""
    if server := servers.find(root, servers.PREFECT):
        os.environ.update(servers.prefect_environment(root, server.url))
        from flows import pipeline_flow  # noqa: F401


def _drive(root: Path, work: PipelineRun, targets: list[str], force: list[str]) -> None:
    """Run the plan as a Prefect flow. If Prefect fails at the very end, what the stages did still counts."""
    server = servers.ensure(root, servers.PREFECT, work.display.notice)
    os.environ.update(servers.prefect_environment(root, server.url))
    from flows import pipeline_flow

    if crashed := pipeline_flow.reconcile(root):
        work.display.notice(f"marked {crashed} earlier run{'s' * (crashed > 1)} as crashed: killed without a word")
    try:
        pipeline_flow.run_as_flow(work, targets, force)
    except Exception as error:
        if len(work.outcomes) < len(work.plan) and not work.error and not work.stopped_by:
            raise
        work.display.notice(f"Prefect did not record the end of this run ({type(error).__name__}); the work is done")
