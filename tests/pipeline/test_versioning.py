"""What we ask of DVC, asked of the real one in a small real project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import versioning
from pipeline.errors import ConfigurationError, HomegrownError, InputOutputError
from pipeline.versioning import BusyError

# The real DVC in a project of its own, for each of them.
pytestmark = pytest.mark.slow

DVC_YAML = """\
stages:
  last:
    cmd: python copy.py right@1.txt last.txt
    deps: [right@1.txt, left.txt]
    outs: [last.txt]
  right:
    foreach: [1, 2]
    do:
      cmd: python copy.py first.txt right@${item}.txt
      deps: [first.txt]
      outs: ["right@${item}.txt"]
  left:
    cmd: python copy.py first.txt left.txt
    deps: [first.txt]
    outs: [left.txt]
  first:
    cmd: python copy.py in.txt first.txt
    params: [shout]
    deps: [in.txt]
    outs: [first.txt]
  look:
    cmd: python -c "print('looking')"
    deps: [last.txt]
    always_changed: true
"""
COPY_PY = "import pathlib, sys; pathlib.Path(sys.argv[2]).write_text(pathlib.Path(sys.argv[1]).read_text())\n"
ORDER_OF_REPRO = ["first", "right@1", "left", "last", "right@2", "look"]


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC itself."""
    command = [sys.executable, "-Pm", "dvc", *arguments]
    environment = versioning.reproduce_environment()
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`, its stages written in dvc.yaml in no helpful order."""
    root = tmp_path_factory.mktemp("project")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    assert dvc(root, "init", "--quiet").returncode == 0
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "copy.py").write_text(COPY_PY)
    (root / "in.txt").write_text("text")
    (root / "params.yaml").write_text("shout: false\n")
    done = dvc(root, "repro")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def project(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of the project, everything up to date."""
    return Path(shutil.copytree(reproduced, tmp_path / "project", symlinks=True))


def names(stages: list[versioning.Stage]) -> list[str]:
    """The stages' names."""
    return [stage.name for stage in stages]


def test_order_is_that_of_dvc_repro(project: Path) -> None:
    """The survey lists the stages in the order in which `dvc repro` has run them, which dvc.lock records."""
    assert names(versioning.survey(project)) == ORDER_OF_REPRO == versioning.lock_order(project)


def test_cached_project_has_only_the_stage_that_always_looks_to_run(project: Path) -> None:
    """After `dvc repro` every stage is cached, but the one that is always changed, which has nothing to wait for."""
    stages = versioning.survey(project)
    assert [s.name for s in stages if not s.cached] == ["look"]
    assert [(s.name, s.look) for s in stages if s.ready] == [("look", "python -c \"print('looking')\"")]


def test_stage_that_looks_goes_through_dvc_if_its_lock_would_change(project: Path) -> None:
    """Only if dvc.lock would stay as it is may a stage that always runs do so without DVC."""
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("'looking'", "'searching'"))
    (look,) = [s for s in versioning.survey(project) if s.name == "look"]
    assert (look.ready, look.look) == (True, "")
    (project / "dvc.yaml").write_text(text)
    (look,) = [s for s in versioning.survey(project, force=["look"]) if s.name == "look"]
    assert (look.ready, look.look) == (True, "")


@pytest.mark.parametrize(
    ("file", "text", "ready", "uncached"),
    [
        ("in.txt", "other", ["first"], set(ORDER_OF_REPRO)),
        ("params.yaml", "shout: true\n", ["first"], set(ORDER_OF_REPRO)),
        ("left.txt", "by hand", ["left"], {"left", "last", "look"}),
    ],
)
def test_change_uncaches_a_stage_and_all_below_it(
    project: Path, file: str, text: str, ready: list[str], uncached: set[str]
) -> None:
    """What a change touches can start; what is below waits for it; the rest stays cached."""
    (project / file).write_text(text)
    stages = versioning.survey(project)
    assert [s.name for s in stages if s.ready] == ready
    assert {s.name for s in stages if not s.cached} == uncached


def test_force_uncaches_a_stage(project: Path) -> None:
    """A forced stage is ready though nothing has changed."""
    assert [s.name for s in versioning.survey(project, ["left"], force=["left"]) if s.ready] == ["left"]


def test_targets_are_stages_or_whole_families(project: Path) -> None:
    """A target brings what it needs; the name of a foreach stands for all of its stages."""
    assert names(versioning.survey(project, ["left"])) == ["first", "left"]
    assert names(versioning.survey(project, ["right"])) == ["first", "right@1", "right@2"]


def test_unknown_target_is_refused_with_the_nearest_name(project: Path) -> None:
    """A typo is answered with the name that was probably meant."""
    with pytest.raises(ConfigurationError, match=r"there is no stage 'rigth'; did you mean 'right'\?"):
        versioning.survey(project, ["rigth"])


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("dvc.yaml", "stages:\n  first:\n    cmmd: x\n", "dvc.yaml"),
        ("dvc.yaml", "stages: [\n", "dvc.yaml"),
        ("params.yaml", "shout: [\n", "params.yaml"),
    ],
)
def test_broken_file_is_a_configuration_error_of_one_line(project: Path, file: str, text: str, said: str) -> None:
    """DVC's own complaint about a file of the user's comes out as one line that names it."""
    (project / file).write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        versioning.survey(project)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_without_dvc_is_refused(tmp_path: Path) -> None:
    """Outside a DVC project the error says how to make one."""
    with pytest.raises(ConfigurationError, match="dvc init"):
        versioning.survey(tmp_path)


def test_reproduce_command_runs_one_stage(project: Path) -> None:
    """The command runs the stage and nothing above or below it, and its output says that it ran."""
    (project / "in.txt").write_text("other")
    command = versioning.reproduce_command("first")
    environment = versioning.reproduce_environment()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if versioning.ran("first", line)] == ["Running stage 'first':"]
    assert (project / "first.txt").read_text() == "other"
    assert (project / "left.txt").read_text() == "text"
    again = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    assert not any(versioning.ran("first", line) for line in again.stdout.splitlines())
    assert all(versioning.is_chatter(line) for line in again.stdout.splitlines())


def test_python_of_the_stages_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PATH says, `python` in dvc.yaml is found beside the python that runs us."""
    monkeypatch.setenv("PATH", "/usr/bin")
    environment = versioning.reproduce_environment()
    assert environment["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"


@pytest.mark.parametrize(
    ("command", "code", "kind"),
    [
        ("exit 65", 65, HomegrownError),
        ("kill -9 $$", -9, InputOutputError),
        ("bash -c 'kill -9 $$'; exit $?", 137, InputOutputError),
    ],
)
def test_command_s_own_exit_status_is_read_from_dvc(project: Path, command: str, code: int, kind: type) -> None:
    """DVC exits with 255 whatever the command did; what it says tells the command's own status."""
    (project / "dvc.yaml").write_text(f"stages:\n  look:\n    cmd: {command}\n    deps: [in.txt]\n")
    done = dvc(project, "repro", "--single-item", "look")
    assert done.returncode == 255
    found, error = versioning.failure("look", (done.stdout + done.stderr).splitlines(), done.returncode)
    assert (found, type(error)) == (code, kind)


def test_lock_order_is_settled_byte_for_byte(project: Path) -> None:
    """Entries that chance has put in some order end up in that of `dvc repro`; nothing else changes."""
    whole = (project / "dvc.lock").read_bytes()
    chance = ["first", "left", "right@2", "right@1", "last", "look"]
    versioning.settle_lock_order(project, chance, ORDER_OF_REPRO)
    assert versioning.lock_order(project) == chance
    versioning.settle_lock_order(project, [], ORDER_OF_REPRO)
    assert (project / "dvc.lock").read_bytes() == whole


def test_entries_that_were_there_before_keep_their_places(project: Path) -> None:
    """Only what a run has added is put in order; an older order stays, as it does under `dvc repro`."""
    older = ["look", "right@2", "left"]
    versioning.settle_lock_order(project, older, ORDER_OF_REPRO)
    assert versioning.lock_order(project) == [*older, "first", "right@1", "last"]


@pytest.mark.parametrize("content", ["", '{"read": {"'])
def test_unreadable_rwlock_is_mended(project: Path, content: str) -> None:
    """An rwlock that a kill has cut short stops DVC; after the repair DVC works."""
    (project / ".dvc/tmp/rwlock").write_text(content)
    assert dvc(project, "repro", "--single-item", "first").returncode == 255
    assert versioning.repair(project) == ["removed .dvc/tmp/rwlock, which a killed process left unreadable"]
    assert versioning.repair(project) == []
    assert not [s for s in versioning.survey(project) if not s.cached and s.name != "look"]


@pytest.mark.parametrize("cut_after", [b"", b"    outs:\n    - path: last.txt\n      has"])
def test_unreadable_lock_is_mended_without_running_anything_again(project: Path, cut_after: bytes) -> None:
    """A dvc.lock that a kill has cut short is put aside, and `dvc repro` brings it back whole from its cache."""
    lock = project / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[: whole.index(cut_after) + len(cut_after)])
    (line,) = versioning.repair(project)
    assert "put aside dvc.lock" in line
    assert not lock.exists()
    done = dvc(project, "repro")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("Running stage")] == ["Running stage 'look':"]
    assert lock.read_bytes() == whole


@pytest.fixture
def zombie() -> Iterator[int]:
    """A process that has ended and that its parent has not asked after: where nobody does, killed ones stay so."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    yield child.pid
    child.wait()


def test_files_held_by_a_dead_process_are_freed(project: Path, zombie: int) -> None:
    """What a killed DVC still holds is freed, a zombie's too; what a living one holds stays held."""
    dead = {"pid": zombie, "cmd": "dvc repro"}
    living = {"pid": os.getpid(), "cmd": "dvc repro"}
    rwlock = project / ".dvc/tmp/rwlock"
    first, left = str(project / "first.txt"), str(project / "left.txt")
    rwlock.write_text(json.dumps({"write": {first: dead, left: living}, "read": {first: [dead, living]}}))
    assert versioning.repair(project) == ["freed what a killed DVC process still held in .dvc/tmp/rwlock"]
    assert json.loads(rwlock.read_text()) == {"write": {left: living}, "read": {first: [living]}}
    assert versioning.repair(project) == []


def test_another_dvc_at_work_is_an_error_to_try_again_on(project: Path) -> None:
    """While another process holds the repository the survey waits a little and then says so."""
    hold = "import sys, time, zc.lockfile; l = zc.lockfile.LockFile(sys.argv[1]); print(1, flush=True); time.sleep(60)"
    lock = project / ".dvc/tmp/lock"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "1\n"
        with pytest.raises(BusyError, match="another DVC process is at work"):
            versioning.survey(project)
    finally:
        holder.kill()
        holder.wait()
    assert versioning.survey(project)


def test_old_outputs_are_forgotten_and_present_ones_kept(project: Path) -> None:
    """After a change, forgetting removes the earlier bytes from the cache; what is in the folder stays restorable."""

    def cached() -> set[str]:
        return {p.read_text() for p in (project / ".dvc" / "cache" / "files").rglob("*") if p.is_file()}

    (project / "in.txt").write_text("new text")
    assert dvc(project, "repro").returncode == 0
    assert cached() == {"text", "new text"}
    versioning.forget_old_outputs(project)
    assert cached() == {"new text"}
    (project / "last.txt").unlink()
    assert dvc(project, "checkout").returncode == 0
    assert (project / "last.txt").read_text() == "new text"
