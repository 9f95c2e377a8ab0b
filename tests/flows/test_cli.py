"""The command line: fast to answer, one line per error, an exit code per kind of error."""

from __future__ import annotations

import json
import re
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli, doctor
from flows.stage_process import StoppedError
from tests.flows.conftest import Project, environment


def test_help_is_quick_and_names_every_command(tmp_path: Path) -> None:
    """`homegrown --help` costs less than half a second of processor time and loads none of the big packages."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    for command in ("run", "plan", "ui", "schedule", "generate", "chat", "classify", "doctor"):
        assert f"\n  {command} " in done.stdout
    program = "import sys, flows.cli; print(sorted({'torch', 'prefect', 'mlflow', 'dvc', 'rich'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert loaded.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "uper"], "there is no stage 'uper'; did you mean 'upper'?"),
        (["run", "--set", "pretrain.steps"], "--set pretrain.steps: expected KEY=VALUE, such as pretrain.steps=50"),
        (["run", "--preset", "nosuch"], "params.yaml: not found"),
        (["run", "--no-such-option"], "no such option: --no-such-option; see homegrown --help"),
        (["rnu"], "no such command"),
        (["generate"], "missing argument"),
        (["generate", "x", "--seed", "99999999999999999999"], "--seed"),
        (["chat", "--seed", "-1"], "--seed"),
        (["quarantine", "upper"], "upper: only ingest and clean turn records away"),
        (["schedule", "--cron", "at night"], '--cron "at night": '),
        (["schedule", "--cron", "0 2 * * *", "--timezone", "Mars/Base"], "--timezone Mars/Base: no such timezone"),
        (["serve-schedule", "--cron", "61 2 * * *"], '--cron "61 2 * * *": '),
    ],
)
def test_user_s_mistake_is_one_line_and_64(bare_project: Project, arguments: list[str], said: str) -> None:
    """A mistake on the command line is answered with what is wrong with it, and nothing has been done."""
    done = bare_project.homegrown(*arguments)
    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 1
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert bare_project.ran() == []


def test_quarantine_says_which_stage_to_run_first(bare_project: Project) -> None:
    """Before clean has run there is nothing to list, and that is a matter of the data: 65."""
    done = bare_project.homegrown("quarantine")
    assert done.returncode == 65
    assert "run the stage that makes it" in done.stderr


def test_command_outside_a_project_is_refused(tmp_path: Path) -> None:
    """Where no dvc.yaml stands above, the error says where to go."""
    done = Project(tmp_path, None).homegrown("run")
    assert done.returncode == 64
    assert "no dvc.yaml in" in done.stderr


def test_command_works_from_a_folder_of_the_project(bare_project: Project) -> None:
    """The project is found from any folder in it."""
    (bare_project.root / "deep" / "down").mkdir(parents=True)
    done = Project(bare_project.root / "deep" / "down", None).homegrown("run", "uper")
    assert "did you mean 'upper'?" in done.stderr


def test_broken_dvc_yaml_is_one_line(bare_project: Project) -> None:
    """A mistake in dvc.yaml is the user's, and DVC's reason for it is given in one line."""
    bare_project.write("dvc.yaml", "stages:\n  read:\n    cmmd: x\n")
    done = bare_project.homegrown("run")
    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 1
    assert "dvc.yaml" in done.stderr


def test_bug_of_ours_is_one_line_with_the_traceback_in_a_file(
    bare_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception nobody foresaw leaves with 70; its text and traceback are kept, and shown with --debug."""
    from flows import launch

    monkeypatch.setattr(launch.displays, "choose", lambda **_: 1 / 0)
    done = bare_project.homegrown("run")
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    said = re.fullmatch(
        "homegrown: ZeroDivisionError, a fault of the program; the traceback is in (.*), please report it", line
    )
    assert said and "ZeroDivisionError: division by zero" in (bare_project.root / said[1]).read_text()
    assert "Traceback" in bare_project.homegrown("run", "--debug").stderr


def test_ctrl_c_is_one_line_and_130(bare_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is interrupted says so."""
    from flows import launch

    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.displays, "choose", interrupt)
    done = bare_project.homegrown("run")
    assert (done.returncode, done.stderr) == (130, "homegrown: interrupted\n")


def test_a_stopped_command_can_be_pasted_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said to go on with is the same command, whatever a shell would make of its words."""
    stopped = StoppedError("stopped by SIGINT", saved=True)
    stopped.stopped_by = signal.SIGINT  # type: ignore[attr-defined]
    arguments = ["run", "--set", "ingest.sources=[a, b]"]
    assert cli._refuse(stopped, arguments) == 75
    command = capsys.readouterr().err.splitlines()[-1].removeprefix("homegrown: go on with: homegrown ")
    assert shlex.split(command) == arguments


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`homegrown` alone is a question, and is answered."""
    assert cli.execute([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_doctor_says_what_is_here_and_what_is_missing(bare_project: Project) -> None:
    """Where files of the project are missing the doctor names them with a way to mend it, and leaves with 69."""
    done = bare_project.homegrown("doctor", "--json")
    assert done.returncode == 69
    found = json.loads(done.stdout)
    by_name = {finding["what"]: finding for finding in found["findings"]}
    assert found["ok"] is False
    assert by_name["packages"] == {
        "what": "packages",
        "found": "constraints.txt is not here",
        "ok": False,
        "mend": "git checkout constraints.txt",
    }
    for name in ("python", "cores", "memory", "torch", "devices", "disk", "dvc", "loopback", "run"):
        assert by_name[name]["ok"], by_name[name]
    assert not (bare_project.root / "mlflow.db").exists()


def test_doctor_names_the_commit_as_a_run_does(bare_project: Project) -> None:
    """The plus stands for a changed file of the commit's; an untracked one is no change."""
    found = []
    for change in ("git add .", "git -c user.name=a -c user.email=a@b commit -qm a", "touch new", "rm in.txt"):
        subprocess.run(change.split(), cwd=bare_project.root, check=True)
        [finding] = [finding for finding in doctor._versions_of_data(bare_project.root) if finding.what == "git"]
        found.append(finding.found)
    _, commit, *_ = found
    assert found == ["no commit here", commit, commit, f"{commit}+"]


def test_doctor_sees_what_a_killed_dvc_has_left(bare_project: Project) -> None:
    """An unreadable rwlock is found, with the command that mends it."""
    bare_project.write(".dvc/tmp/rwlock", "")
    findings = json.loads(bare_project.homegrown("doctor", "--json").stdout)["findings"]
    (dvc,) = [finding for finding in findings if finding["what"] == "dvc"]
    assert (dvc["ok"], dvc["mend"]) == (False, "homegrown run")
