"""The page of a run says what went in and out, asks no other host, and shows no personal data."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline import data_report, document_measures
from pipeline.document_measures import Measures

pytestmark = pytest.mark.slow  # plots are drawn

CANARY = "jane.canary@uni-bonn.de"


def page_of(project: Any, **texts: str) -> str:
    """The page after cleaning these texts."""
    for path in (project.root / "texts").iterdir():
        path.unlink()
    for name, text in texts.items():
        (project.root / "texts" / f"{name}.txt").write_text(text)
    project.run("ingest")
    project.run("clean", repair_unicode=True)
    places = {
        "documents": "documents/clean", "examples": "examples/clean",
        "refused": "quarantine/ingest", "dropped": "quarantine/clean", "data_docs": "reports/data_docs",
    }  # fmt: skip
    folder = project.path("reports/data_report")
    found = Measures(project.path("documents/clean"), project.manifest("documents/clean"))
    for _ in found.rows():
        pass
    path = data_report.write(
        folder, **{name: project.path(place) for name, place in places.items()}, quality=found.quality()
    )
    assert sorted(file.name for file in folder.iterdir()) == ["index.html", "lengths.png", "quality.png"]
    return path.read_text()


def test_the_page_counts_and_shows_what_happened(fresh: Any) -> None:
    """Totals, reasons, changes and examples stand in it, and the Data Docs are linked."""
    page = page_of(fresh, a="A <b>first</b> text.", b="A <b>first</b> text.", c="cafÃ© au lait", d=" ")
    assert "4 documents of 0.1 kB went in, 2 of 0.0 kB came out" in page
    assert "1 empty, 1 exact duplicate" in page
    assert "<pre>A &lt;b&gt;first&lt;/b&gt; text.</pre>" in page  # the text alone, not what is known of it
    assert "café au lait" in page
    assert 'href="../data_docs/index.html"' in page


def test_of_many_documents_some_are_pictured(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number the pictures are of a sample, and the page says of how many."""
    texts = {f"t{number:03}": f"Text number {number}." for number in range(200)}
    assert "Each measure of the clean documents;" in page_of(fresh, **texts)
    monkeypatch.setattr(document_measures, "PICTURED_DOCUMENTS", 50)
    [said] = re.findall("Each measure of ([0-9]+) of the clean documents;", page_of(fresh, **texts))
    assert 25 < int(said) < 80


def test_no_personal_data_and_no_other_host_is_in_it(fresh: Any) -> None:
    """A planted address in a dropped and in a changed text is masked."""
    page = page_of(fresh, a=f"{CANARY} one", b=f"{CANARY} one", c=f"cafÃ© {CANARY}")
    assert "canary" not in page
    assert page.count("&lt;email&gt;") >= 2
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", page) == []
    assert "<script" not in page
