"""Tables are held against what is expected of them by the real Great Expectations; no data is no pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.expectations import Expectation, Suite, Verdict, check

SMALL = Expectation("ExpectColumnValuesToBeBetween", {"column": "n", "max_value": 2}, "a number is too large")
FEW = Expectation("ExpectTableRowCountToBeBetween", {"min_value": 2}, "there are too few rows")


@pytest.mark.slow
def test_verdicts_say_what_fails_and_how_often(tmp_path: Path) -> None:
    """Each expectation gets a verdict in order, with the rows that broke it; Data Docs are written and hold no row."""
    suites = [
        Suite("good", {"n": [1, 2, 2], "name": ["x", "y", "CANARY-31"]}, [FEW, SMALL]),
        Suite("bad", {"n": [1, 30_917, 4]}, [SMALL]),
    ]
    docs = tmp_path / "data_docs"
    docs.mkdir()
    (docs / "stale.html").write_text("from an earlier run")
    assert check(suites, docs) == [
        Verdict("good", FEW.name, FEW.meaning, True, 0, "3"),
        Verdict("good", SMALL.name, SMALL.meaning, True, 0, ""),
        Verdict("bad", SMALL.name, SMALL.meaning, False, 2, ""),
    ]
    pages = {page.name: page.read_text(encoding="utf-8") for page in docs.rglob("*.html")}
    assert ("index.html" in pages, "stale.html" in pages) == (True, False)
    assert not any("CANARY-31" in page or "30917" in page for page in pages.values())


@pytest.mark.slow
def test_an_expectation_that_cannot_be_checked_is_an_error(tmp_path: Path) -> None:
    """A column that is not there is no verdict but a DataError naming suite and expectation."""
    with pytest.raises(DataError, match="validate: odd: ExpectColumnValuesToBeBetween could not be checked"):
        check([Suite("odd", {"m": [1]}, [SMALL])], tmp_path / "docs")


@pytest.mark.parametrize("columns", [{}, {"n": []}])
def test_an_empty_table_is_refused(tmp_path: Path, columns: dict[str, list[int]]) -> None:
    """No row fulfils every expectation, so a table without rows is an error and no docs are written."""
    with pytest.raises(DataError, match="validate: none: the table has no rows; there is nothing to train on"):
        check([Suite("none", columns, [SMALL])], tmp_path / "docs")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_suite_is_refused(tmp_path: Path) -> None:
    """Expecting nothing is always fulfilled, so it is an error."""
    with pytest.raises(DataError, match="the suite 'lazy' expects nothing"):
        check([Suite("lazy", {"n": [1]}, [])], tmp_path / "docs")
