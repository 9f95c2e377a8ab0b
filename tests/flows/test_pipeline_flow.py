"""The flow over DVC's graph, on a small project, with the real DVC and a real Prefect server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import servers
from flows.display import PlainDisplay
from flows.preparation import prepared
from pipeline.errors import DataError, DependencyError
from pipeline.versioning import repair, survey
from tests.flows.conftest import DVC_YAML, Project, environment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]

STAGES = ["read", "upper", "count@x", "count@y", "publish"]


def states(result: dict[str, Any]) -> dict[str, str]:
    """What became of each stage."""
    return {stage["stage"]: stage["state"] for stage in result["stages"]}


def test_first_run_runs_every_stage_and_leaves_the_lock_that_dvc_repro_leaves(
    make_project: Callable[..., Project],
) -> None:
    """A run of the flow and a `dvc repro` in another clone leave the same dvc.lock, byte for byte."""
    flow, alone = make_project("flow"), make_project("alone")
    # The stage that DVC would run first ends last, so that chance does not put the entries in order.
    flow.behave("upper", sleep=2)
    result = flow.run()
    assert result["exit_code"] == 0
    assert states(result) == dict.fromkeys(STAGES, "done")
    assert flow.ran() == sorted(STAGES)
    assert alone.dvc("repro").returncode == 0
    assert (flow.root / "dvc.lock").read_bytes() == (alone.root / "dvc.lock").read_bytes()


def test_two_stages_work_at_once_and_one_that_waits_for_another_holds_up_no_third(project: Project) -> None:
    """While a long stage works, those that wait for it take no place; of three that could, the first two work."""
    after = "  after:\n    cmd: exec python stage.py after upper.out\n    deps: [upper.out]\n"
    project.write("dvc.yaml", (project.root / "dvc.yaml").read_text().replace("  count:\n", f"{after}  count:\n"))
    project.behave("upper", sleep=60)
    process = project.start("run")
    upper = psutil.Process(int(project.wait_for("pid.upper").read_text()))
    for name in ("x", "y"):
        project.wait_for(f"count.{name}.out")
    assert upper.is_running()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)  # a stage at its very end is given a minute for it
    able = ("upper", "count@x", "count@y")
    for name in able:
        project.behave(name, sleep=60)
        (project.root / f"pid.{name}").unlink()
    repair(project.root)  # the DVC that was just stopped may have left half a file
    first, second, third = (
        project.root / f"pid.{stage.name}" for stage in survey(project.root, [], []) if stage.name in able
    )
    process = project.start("run", *(f"--force={name}" for name in able), *able)
    project.wait_for(first.name)
    project.wait_for(second.name)
    time.sleep(2)
    assert not third.exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=40)


def test_second_run_is_cached_and_prefect_says_so(settled_project: Project) -> None:
    """Where nothing has changed, every task is in state Cached, but for the stage that always looks.

    DVC has been asked once for all of them: no process was started for a cached one.
    """
    result = settled_project.run()
    assert states(result) == {**dict.fromkeys(STAGES, "cached"), "publish": "done"}
    assert settled_project.ran() == ["publish"]
    assert [log.name for log in (settled_project.root / ".homegrown" / "logs").iterdir()] == ["publish.log"]
    latest = settled_project.flow_runs()[0]
    assert latest["state_name"] == "Completed"
    assert settled_project.task_states(latest["id"], len(STAGES)) == {
        **dict.fromkeys(STAGES, "Cached"),
        "publish": "Completed",
    }


@pytest.mark.parametrize("run_before", [True, False], ids=["cached", "to do"])
def test_what_prefect_loses_is_done_all_the_same(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, run_before: bool
) -> None:
    """A task that fails before it has begun, and those that wait for it: no stage is left out without a word."""
    from flows.stage_task import reproduce_stage

    whole = reproduce_stage.fn

    def losing(stage: str) -> Any:
        if stage == "count@x":
            raise RuntimeError("database is locked")
        return whole(stage)

    monkeypatch.setattr(reproduce_stage, "fn", losing)
    done = make_project(run_before=run_before).homegrown("run", "--json")
    found = states(json.loads(done.stdout))
    assert found == {**dict.fromkeys(STAGES, "cached" if run_before else "done"), "publish": "done"}
    assert "count@x: done without Prefect" in done.stderr and "database is locked" in done.stderr
    assert "publish: done without Prefect" in done.stderr
    assert done.returncode == 0


def test_changed_input_reruns_exactly_its_descendants(settled_project: Project) -> None:
    """What reads a changed file runs again, and what reads that; the rest stays as it is."""
    settled_project.write(
        "dvc.yaml", DVC_YAML.replace("python stage.py upper read.out", "python stage.py upper in.txt")
    )
    settled_project.ran()
    assert states(settled_project.run("upper")) == {"read": "cached", "upper": "done"}
    settled_project.write("in.txt", "other text")
    assert states(settled_project.run()) == dict.fromkeys(STAGES, "done")
    assert settled_project.ran() == sorted([*STAGES, "upper"])


def test_damaged_output_comes_back_from_the_cache(settled_project: Project) -> None:
    """An output that somebody has changed is put back without running its stage."""
    before = (settled_project.root / "count.x.out").read_bytes()
    settled_project.write("count.x.out", "changed by hand")
    assert states(settled_project.run("count@x")) == {"read": "cached", "count@x": "cached"}
    assert (settled_project.root / "count.x.out").read_bytes() == before
    assert settled_project.ran() == []


def test_remade_stage_with_the_same_output_reruns_nothing_below_it(settled_project: Project) -> None:
    """A forced stage that writes what it wrote before leaves everything below it cached."""
    assert states(settled_project.run("--force", "read", "upper")) == {"read": "done", "upper": "cached"}
    assert settled_project.ran() == ["read"]


def test_target_runs_what_it_needs_and_no_more(project: Project) -> None:
    """A target stands for itself and its ancestors; the name of a foreach for all of its stages."""
    assert states(project.run("count")) == dict.fromkeys(["read", "count@x", "count@y"], "done")
    assert project.ran() == ["count@x", "count@y", "read"]


def test_stage_s_own_exit_code_and_message_come_out(project: Project) -> None:
    """The stage's code and its one line end the command; siblings finish; what is below is not run."""
    project.behave("upper", exit=65, message="in.txt, line 1: no letters; expected some")
    done = project.homegrown("run")
    assert done.returncode == 65
    assert done.stderr.splitlines()[-1] == "homegrown: upper: in.txt, line 1: no letters; expected some"
    assert "Traceback" not in done.stderr
    failed = "upper: failed: in.txt, line 1: no letters; expected some"
    assert {failed, "publish: not run"} <= set(done.stdout.splitlines())
    assert project.ran() == ["count@x", "count@y", "read", "upper"]
    latest = project.flow_runs()[0]
    assert latest["state_name"] == "Failed"
    assert project.task_states(latest["id"], len(STAGES))["publish"] == "NotReady"


@pytest.mark.parametrize(("code", "expected"), [(76, 76), (3, 70)])
def test_exit_status_is_understood_without_a_message(project: Project, code: int, expected: int) -> None:
    """A command that only exits with one of our codes is understood; any other code is a bug of the stage."""
    project.behave("read", exit=code)
    done = project.homegrown("run", "read")
    assert done.returncode == expected
    assert done.stderr.strip().endswith("its output is in .homegrown/logs/read.log")
    assert "hello from read" in (project.root / ".homegrown/logs/read.log").read_text()


def test_service_that_is_down_is_asked_again_and_bad_data_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 69 is tried three times, 65 once; the log keeps what each attempt of a run printed, and of that run."""
    log = project.root / ".homegrown" / "logs" / "read.log"
    monkeypatch.setattr("flows.graph.RETRY_DELAYS_SECONDS", (0, 0))
    project.behave("read", exit=69, message="read: nobody answers")
    assert project.homegrown("run", "read").returncode == 69
    assert project.ran() == ["read"] * 3
    assert (log.read_text().count("hello from read"), log.read_text().count("--- tried again at ")) == (3, 2)
    project.behave("read", exit=65, message="read: bad data")
    assert project.homegrown("run", "read").returncode == 65
    assert project.ran() == ["read"]
    assert log.read_text().count("hello from read") == 1


def test_ctrl_c_lets_a_stage_save_and_names_the_way_on(project: Project) -> None:
    """On SIGINT the working stage gets SIGTERM and saves; exit code 75, nothing is left running, dvc.lock is whole."""
    project.behave("upper", sleep=60, saves=True)
    process = project.start("run", "upper")
    stage = psutil.Process(int(project.wait_for("pid.upper").read_text()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 75
    assert err.splitlines()[-2:] == [
        "homegrown: stopped by SIGINT; upper saved what was done",
        "homegrown: go on with: homegrown run upper",
    ]
    assert "upper: stopped" in out.splitlines()
    assert not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE
    assert project.ran() == ["read", "upper"]
    assert project.flow_runs()[0]["state_name"] == "Cancelled"
    project.behave("upper")
    assert states(project.run("upper")) == {"read": "cached", "upper": "done"}


def test_ctrl_c_on_a_stage_that_saves_nothing_is_130(project: Project) -> None:
    """Without a checkpoint the exit code is the shell's for SIGINT; a stage is not tried again."""
    project.behave("read", sleep=60)
    process = project.start("run", "read")
    stage = psutil.Process(int(project.wait_for("pid.read").read_text()))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert not stage.is_running()
    assert project.ran() == ["read"]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_second_run_is_refused_and_a_dead_holder_s_lock_is_free(
    project: Project, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one run works a second leaves at once with 75; after kill -9 of the first, the next one runs.

    The kill ends DVC as well, whatever shell it runs stages with, and Prefect learns from the next run that the first
    one crashed.
    """
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not here")
    monkeypatch.setenv("SHELL", shell)
    project.behave("upper", sleep=60)
    first = project.start("run", "upper")
    stage = psutil.Process(int(project.wait_for("pid.upper").read_text()))
    left = project.wait_for_flow_run("Running")
    project.wait_for(f".homegrown/flow_runs/{left['id']}.json")  # a run that is not claimed yet may belong to anybody
    refused = project.homegrown("run")
    assert refused.returncode == 75
    assert refused.stderr.startswith(f"homegrown: another run is at work in this folder (pid {first.pid}, since ")
    assert len(refused.stderr.splitlines()) == 1
    dvc = stage.parent()
    assert dvc
    first.kill()
    first.wait()
    gone_by = time.monotonic() + 20
    while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < gone_by, "DVC outlived the command"
        time.sleep(0.1)
    stage.kill()  # a stage of ours would have tied itself to DVC; this one knows nothing
    assert project.flow_runs()[0]["state_name"] == "Running"
    project.behave("upper")
    after = project.homegrown("run", "upper")
    assert after.returncode == 0, after.stderr
    assert "marked 1 earlier run as crashed" in after.stdout, "\n" + after.stdout
    crashed = next(run for run in project.flow_runs() if run["id"] == left["id"])
    assert crashed["state_name"] == "Crashed"


@pytest.mark.parametrize(("run_before", "first"), [(True, "publish"), (False, "read")])
def test_first_stage_starts_before_prefect_is_asked(
    make_project: Callable[..., Project], run_before: bool, first: str
) -> None:
    """What waits for nothing (a look, if all else is cached) is at work before the flow is; with no flow it ends."""
    project = make_project(run_before=run_before)
    project.behave(first, sleep=60)
    with contextlib.chdir(project.root), prepared(Path.cwd(), [], [], PlainDisplay()) as run:
        stage = psutil.Process(int(project.wait_for(f"pid.{first}").read_text()))
    assert not stage.is_running()
    assert {name: outcome.state for name, outcome in run.outcomes.items()} == dict.fromkeys(STAGES, "not run")


def test_stages_go_ahead_one_after_another_until_prefect_is_up(make_project: Callable[..., Project]) -> None:
    """Before any flow, each stage runs when those before it have ended well, and none after a failure.

    If Prefect never comes up, the stage that failed is what the run ends with, and both reasons are said.
    """
    project = make_project(run_before=False)
    project.behave("count@y", exit=65, message="count@y: no good")
    said = io.StringIO()
    with (
        pytest.raises(DataError, match=r"^count@y: no good$"),
        contextlib.chdir(project.root),
        prepared(Path.cwd(), [], [], PlainDisplay(said)) as run,
    ):
        project.wait_for("pid.count@y")
        assert run._processes["count@y"].wait() != 0
        raise DependencyError("Prefect's server did not answer")
    done = {"read", "upper", "count@x"}
    assert project.ran() == sorted({*done, "count@y"})
    states = {name: outcome.state for name, outcome in run.outcomes.items()}
    assert states == {**dict.fromkeys(STAGES, "done"), "count@y": "failed", "publish": "not run"}
    assert {"Prefect's server did not answer", "count@y: failed: no good"} <= set(said.getvalue().splitlines())


def test_stage_that_looks_fails_with_its_own_code(settled_project: Project) -> None:
    """The stage that is run without DVC around it is understood as well, and leaves dvc.lock as it was."""
    before = (settled_project.root / "dvc.lock").read_bytes()
    settled_project.behave("publish", exit=76, message="publish: not good enough")
    done = settled_project.homegrown("run")
    assert (done.returncode, done.stderr) == (76, "homegrown: publish: not good enough\n")
    settled_project.behave("publish", exit=69)
    assert settled_project.homegrown("run").returncode == 69
    settled_project.behave("publish")
    assert settled_project.run()["exit_code"] == 0
    assert (settled_project.root / "dvc.lock").read_bytes() == before


def test_ctrl_c_reaches_a_stage_that_looks(settled_project: Project) -> None:
    """A stage that is run without DVC around it is stopped like any other."""
    settled_project.behave("publish", sleep=60, saves=True)
    process = settled_project.start("run")
    stage = psutil.Process(int(settled_project.wait_for("pid.publish").read_text()))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 75, err
    assert not stage.is_running()


def test_progress_is_shown_but_not_logged(project: Project) -> None:
    """A progress line reaches the screen as text and Prefect's log and the log file not at all."""
    done = project.homegrown("run", "read")
    assert done.returncode == 0
    assert "read | 1/2 lines · half" in done.stdout
    assert "@progress" not in done.stdout + (project.root / ".homegrown/logs/read.log").read_text()
    run = project.flow_runs()[0]
    deadline = time.monotonic() + 10
    messages: list[str] = []
    while "hello from read" not in messages and time.monotonic() < deadline:
        logs = project.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
        messages = [log["message"] for log in logs]
        time.sleep(0.2)
    assert "hello from read" in messages
    assert not any("@progress" in message for message in messages)


def test_json_is_one_object_and_the_exit_code_is_in_it(project: Project) -> None:
    """With --json stdout is one object, whatever happens; the line for people is on stderr."""
    project.behave("read", exit=65, message="read: no")
    done = project.homegrown("run", "--json", "read")
    assert done.returncode == 65
    result = json.loads(done.stdout)
    assert (result["exit_code"], result["error"]) == (65, "read: no")
    assert done.stderr.splitlines()[-1] == "homegrown: read: no"


def test_environment_s_python_runs_the_stages(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python` in dvc.yaml is the python that runs `homegrown`, even with another one first in PATH."""
    other = project.root / "bin" / "python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    project.write("stage.py", "import sys, pathlib\npathlib.Path(sys.argv[3]).write_text(sys.prefix)\n")
    assert project.run("read")["exit_code"] == 0
    assert (project.root / "read.out").read_text() == sys.prefix


def test_run_outlives_prefect_s_server(bare_project: Project, lend_prefect_tables: Callable[[Path], None]) -> None:
    """Prefect's server is killed in the middle of a run: the stages go on to the end, and the exit code is theirs.

    The next run starts the server again and marks what it never heard the end of.
    """
    project = bare_project
    lend_prefect_tables(project.root)
    project.behave("upper", sleep=20)
    server = servers.ensure(project.root, servers.PREFECT, print)
    process = project.start("run", "--json", "upper")
    project.wait_for("pid.upper")
    Project(project.root, server).wait_for_flow_run("Running")
    os.kill(server.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert states(json.loads(out)) == {"read": "done", "upper": "done"}
    assert "Prefect did not record the end of this run" in err
    assert "Traceback" not in err
    try:
        done = subprocess.run(process.args, cwd=project.root, env=environment(), capture_output=True, text=True)
        assert states(json.loads(done.stdout)) == {"read": "cached", "upper": "cached"}
        assert "marked 1 earlier run as crashed" in done.stderr
    finally:
        servers.stop(project.root, servers.PREFECT)
