"""DVC, asked in a process of its own, says what it says here."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from flows.surveyor import Survey, surveying
from pipeline import versioning
from pipeline.errors import ConfigurationError
from tests.flows.conftest import Project

pytestmark = pytest.mark.slow


def survey(project: Project, *targets: str) -> Survey:
    """What the other process finds."""
    with surveying(project.root, targets, []) as found:
        return found()


def test_it_finds_what_this_process_would(settled_project: Project) -> None:
    """Plan and order of dvc.lock are the same, for everything up to date and after a change."""
    root = settled_project.root
    before = survey(settled_project)
    assert before == Survey([], versioning.survey(root), versioning.lock_order(root))
    assert before.plan and before.lock_order
    settled_project.write("in.txt", "another text")
    assert survey(settled_project) == replace(before, plan=versioning.survey(root))


def test_what_is_mended_is_said(settled_project: Project) -> None:
    """What a killed DVC left is cleared away before the look, and named."""
    (settled_project.root / ".dvc" / "tmp" / "rwlock").write_text("{", encoding="utf-8")
    assert survey(settled_project).mended == ["removed .dvc/tmp/rwlock, which a killed process left unreadable"]


def test_an_error_is_raised_here(settled_project: Project) -> None:
    """A stage that is not there is the user's mistake, said as it is without the other process."""
    with pytest.raises(ConfigurationError) as plain:
        versioning.survey(settled_project.root, ["nonsense"])
    with pytest.raises(ConfigurationError, match="there is no stage 'nonsense'") as told:
        survey(settled_project, "nonsense")
    assert str(told.value) == str(plain.value)


def test_nobody_is_left_behind(settled_project: Project) -> None:
    """Whoever leaves before the answer leaves no process."""
    with pytest.raises(KeyboardInterrupt), surveying(settled_project.root, [], []):
        raise KeyboardInterrupt
    assert not [child for child in psutil.Process().children() if "flows.surveyor" in " ".join(child.cmdline())]
