"""Tables are held against what is expected of them by the real Great Expectations; no data is no pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.expectations import Checked, Expectation, Suite, Verdict, check

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = Expectation("ExpectColumnValuesToBeBetween", {"column": "n", "max_value": 2}, "a number is too large")
FEW = Expectation("ExpectTableRowCountToBeBetween", {"min_value": 2}, "there are too few rows")


@pytest.mark.slow
def test_verdicts_say_what_fails_and_how_often(tmp_path: Path) -> None:
    """Each expectation gets a verdict in order, with the rows that broke it; Data Docs are written and hold no row."""
    suites = [
        Suite("good", ["n", "name"], [(1, "x"), (2, "y"), (2, "CANARY-31")], [FEW, SMALL]),
        Suite("bad", ["n"], iter([(1,), (30_917,), (4,)]), [SMALL]),
    ]
    docs = tmp_path / "data_docs"
    docs.mkdir()
    (docs / "stale.html").write_text("from an earlier run")
    good = [
        Verdict("good", FEW.name, FEW.meaning, True, 0, "3"),
        Verdict("good", SMALL.name, SMALL.meaning, True, 0, ""),
    ]
    bad = [Verdict("bad", SMALL.name, SMALL.meaning, False, 2, "")]
    assert check(suites, docs) == [Checked("good", 3, good), Checked("bad", 3, bad)]
    pages = {page.name: page.read_text(encoding="utf-8") for page in docs.rglob("*.html")}
    assert ("index.html" in pages, "stale.html" in pages) == (True, False)
    assert not any("CANARY-31" in page or "30917" in page for page in pages.values())


@pytest.mark.slow
def test_an_expectation_that_cannot_be_checked_is_an_error(tmp_path: Path) -> None:
    """A column that is not there is no verdict but a DataError naming suite and expectation."""
    with pytest.raises(DataError, match="validate: odd: ExpectColumnValuesToBeBetween could not be checked"):
        check([Suite("odd", ["m"], [(1,)], [SMALL])], tmp_path / "docs")


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    """No row fulfils every expectation, so a table without rows is an error and no docs are written."""
    with pytest.raises(DataError, match="validate: none: the table has no rows; there is nothing to train on"):
        check([Suite("none", ["n"], [], [SMALL])], tmp_path / "docs")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_suite_is_refused(tmp_path: Path) -> None:
    """Expecting nothing is always fulfilled, so it is an error."""
    with pytest.raises(DataError, match="the suite 'lazy' expects nothing"):
        check([Suite("lazy", ["n"], [(1,)], [])], tmp_path / "docs")


@pytest.mark.usefixtures("own_file_system")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """Rows that find no room end with the operating system's word for it, and leave none of it taken."""
    script = """
import os, pathlib
from pipeline.expectations import Expectation, Suite, check
try:
    check([Suite("many", ["n"], ((n,) for n in range(10**6)), [Expectation("", {}, "")])], pathlib.Path("data_docs"))
except OSError as error:
    print(error, os.listdir())
"""
    mounted = 'mount -t tmpfs -o size=1m none "$1" && cd "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, "sh", str(tmp_path), sys.executable, script],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[Errno 28] No space left on device: 'data_docs.sqlite' []\n"
