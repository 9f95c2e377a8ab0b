"""The schedule: runs come when they are due, one at a time, and a run by hand is in their way."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flows import schedule
from flows.preparation import run_lock
from tests.flows.conftest import Project

pytestmark = pytest.mark.xdist_group("prefect")


def test_timezone_of_the_machine_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """TZ decides if it is set; otherwise the machine's own timezone, which the scheduler knows."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert schedule.local_timezone() == "Europe/Berlin"
    monkeypatch.delenv("TZ")
    schedule.check_cron("0 2 * * *", schedule.local_timezone())


@contextmanager
def scheduled(project: Project, cron: str) -> Iterator[subprocess.Popen[str]]:
    """`homegrown schedule`, up and looking for due runs; Ctrl-C ends it."""
    process = project.start("schedule", "--cron", cron, "--timezone", "UTC", "read")
    try:
        assert process.stdout and process.stdout.readline().startswith(f"scheduled: {cron} (UTC); runs show at http://")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()[-1]) == (0, "schedule paused"), err


def deployment(project: Project) -> dict[str, Any]:
    """The schedule's deployment as Prefect has it."""
    for _ in range(100):
        found = project.ask("deployments/filter", {"deployments": {"name": {"any_": [schedule.DEPLOYMENT]}}})
        if found and not found[0]["paused"]:
            return found[0]
        time.sleep(0.2)
    raise AssertionError("no deployment")


def trigger(project: Project, deployment_id: str) -> str:
    """Make a run of the deployment due now; its id."""
    assert project.server
    request = urllib.request.Request(
        f"{project.server.url}/api/deployments/{deployment_id}/create_flow_run",
        json.dumps({"state": {"type": "SCHEDULED"}}).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(20):
        try:
            return str(json.loads(opener.open(request, timeout=20).read())["id"])
        except urllib.error.HTTPError as error:
            if error.code != 503:  # the server's database was busy; Prefect's own client asks again, too
                raise
            time.sleep(0.5)
    raise AssertionError("the server stayed busy")


def final_state(project: Project, flow_run_id: str, timeout: float = 90) -> tuple[str, str]:
    """The name and message of the state that a flow run ends in."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        (run,) = project.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
        if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
            return run["state_name"], run["state"]["message"]
        time.sleep(0.3)
    raise AssertionError(f"still {run['state_name']}")


@pytest.mark.slow
def test_due_run_runs_the_targets_and_a_run_at_work_makes_it_skip(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is due brings its targets up to date; while another run holds the lock it is skipped with 75.

    The deployment is served again after a Ctrl-C, which had paused it.
    """
    monkeypatch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    project = make_project()
    with scheduled(project, "0 2 * * *"):
        made = deployment(project)
        assert made["schedules"][0]["schedule"] == {"cron": "0 2 * * *", "timezone": "UTC", "day_or": True}
        name, message = final_state(project, trigger(project, made["id"]))
        assert (name, message) == ("Completed", "1 stages run, 0 cached")
        assert project.ran() == ["read"]
    with scheduled(project, "0 3 * * *"):
        made = deployment(project)
        with run_lock(project.root):
            name, message = final_state(project, trigger(project, made["id"]))
        assert name == "Skipped"
        assert message.startswith("another run is at work") and message.endswith("(exit code 75)")
        assert project.ran() == []
