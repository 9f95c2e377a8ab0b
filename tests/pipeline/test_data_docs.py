"""Data Docs are pages that stand alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.expectations import Expectation, Suite, check

ANSWERS = Suite(
    "answers",
    ["length"],
    [(1,), (2,), (3,)],
    [
        Expectation("ExpectTableRowCountToBeBetween", {"min_value": 1}, "there are no answers"),
        Expectation("ExpectColumnValuesToBeBetween", {"column": "length", "max_value": 2}, "an answer is too long"),
    ],
)


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(tmp_path: Path) -> None:
    """No script, style sheet or picture of any page comes from another host; links to follow may."""
    check([ANSWERS], tmp_path / "docs")
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        assert re.findall(r"<(?:script|img|link|iframe)\b[^>]*//", page.read_text(encoding="utf-8")) == []


def test_the_index_leads_to_every_result(tmp_path: Path) -> None:
    """The index says how each suite fared and links its pages, with nothing left for a script to draw."""
    check([ANSWERS], tmp_path / "docs")
    index = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert "1 of 2 hold" in index
    for target in re.findall(r'href="([^"]+)"', index):
        assert (tmp_path / "docs" / target).is_file()
