"""DVC with our shortcuts does what DVC does, and lists a folder twice where DVC lists it ten times."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import dvc_shortcuts, versioning

pytestmark = pytest.mark.slow  # the real DVC, in processes of its own

DVC_YAML = """\
stages:
  count:
    cmd: python count.py
    params: [shout]
    deps: [texts, count.py]
    outs: [counted]
"""
# As a person might who saves a text while the stage reads it.
COUNT_PY = """\
from pathlib import Path
texts = sorted(Path("texts").iterdir())
Path("counted").write_text(str(len(texts)))
if Path("meddle").exists():
    texts[0].write_text(texts[0].read_text() + " and more")
"""
COUNTING = """\
import sys
from dvc_data.hashfile import build
from pipeline import dvc_shortcuts
lists, read_tree = [], build._build_tree
build._build_tree = lambda path, *others, **options: (lists.append(path), read_tree(path, *others, **options))[1]
if sys.argv.pop(1) == "plain":
    dvc_shortcuts.take = lambda: None
status = dvc_shortcuts.main()
print("lists", len(lists))
sys.exit(status)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A stage that reads a folder; it has not run yet."""
    root = tmp_path / "shortcuts"
    (root / "texts").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    for number in range(3):
        (root / "texts" / f"{number}.txt").write_text(f"text {number}")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "count.py").write_text(COUNT_PY)
    (root / "params.yaml").write_text("shout: false\n")
    subprocess.run([sys.executable, "-Pm", "dvc", "init", "--quiet"], cwd=root, check=True)
    return root


def repro(root: Path, way: str) -> int:
    """Run the stage with the shortcuts or plainly; how often DVC listed the folder of texts."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, way, "repro", "--single-item", "count"],
        cwd=root,
        env={**versioning.reproduce_environment(), "PYTHONPATH": str(Path(dvc_shortcuts.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1].removeprefix("lists "))


@pytest.mark.parametrize("meddles", [False, True], ids=["left alone", "changed meanwhile"])
def test_the_same_is_locked_after_fewer_looks(project: Path, meddles: bool) -> None:
    """Through a first run, a change and no change, dvc.lock is that of plain DVC; so it is when a text changes while
    the stage runs."""
    plainly = Path(shutil.copytree(project, project.with_name("plain"), symlinks=True))
    counts: dict[str, list[int]] = {"quick": [], "plain": []}
    for step in ("first", "changed", "same"):
        for way, root in (("quick", project), ("plain", plainly)):
            if step == "changed":
                (root / "texts" / "9.txt").write_text("one more")
            if meddles and step == "changed":
                (root / "meddle").touch()
            counts[way].append(repro(root, way))
            (root / "meddle").unlink(missing_ok=True)
        assert (project / "dvc.lock").read_bytes() == (plainly / "dvc.lock").read_bytes()
        assert (project / "counted").read_text() == (plainly / "counted").read_text()
    assert counts["quick"] == [2, 2, 1]
    assert min(counts["plain"][:2]) >= 5
