"""A source is described in full and can be noticed to change, or params are refused with the next step."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
from pipeline.params import build
from pipeline.stages import ingest

GOOD = {"path": "texts/a", "kind": "documents", "licence": "CC0-1.0", "origin": "us"}


def params(sources: list[str], **catalogue: dict[str, Any]) -> ingest.Params:
    """The stage's params with these sources."""
    values = {"sources": sources, "texts": "texts", "texts_licence": "CC0-1.0", "catalogue": catalogue}
    built: ingest.Params = build(ingest.Params, values, "params.yaml: ingest")
    return built


def test_an_entry_needs_four_lines() -> None:
    """Path, kind, licence and origin describe a source of documents."""
    assert params(["texts", "mine"], mine=GOOD).catalogue["mine"].format == "auto"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kidn": 1}, "kidn"),
        ({"licence": " "}, "licence and origin must be said"),
        ({"kind": "document"}, r"ingest\.catalogue\.mine\.kind"),
        ({"format": "jsnl"}, "did you mean jsonl"),
        ({"encoding": "utf-9"}, "encoding is 'utf-9'"),
        ({"path": "https://e.org/a.txt"}, "sha256 is missing: what a URL holds may change"),
        ({"sha256": "abc"}, "sha256 must be 64 hexadecimal digits"),
        ({"path": "elsewhere/a.txt"}, r"mine\.path is elsewhere/a\.txt, outside ingest\.texts"),
        ({"path": "texts/../a.txt"}, "outside ingest.texts"),
        ({"fields": {"txt": "body"}}, "fields has 'txt'; documents have text"),
        ({"fields": {"text": 1, "name": "n"}}, "fields must be all names, or all column numbers"),
        ({"kind": "translations"}, "languages must name two"),
        ({"split": "dev"}, "split must be one of train, validation, test"),
    ],
)
def test_what_is_not_described_is_refused(changes: dict[str, Any], said: str) -> None:
    """Each mistake in an entry is one line that names it."""
    with pytest.raises(ConfigurationError, match=said):
        params(["mine"], mine={**GOOD, **changes})


def test_sources_are_known_by_name() -> None:
    """A source that is nowhere described is refused with the nearest that is; a built-in name cannot be taken."""
    with pytest.raises(
        ConfigurationError, match="sources names 'mien', which is not in catalogue; did you mean 'mine'"
    ):
        params(["mien"], mine=GOOD)
    with pytest.raises(ConfigurationError, match=r"catalogue\.texts has the name of a source that is built in"):
        params(["texts"], texts=GOOD)
    with pytest.raises(ConfigurationError, match=r"catalogue\.spam has the name of a data set in data/samples"):
        params(["spam"], spam=GOOD)


def test_a_pinned_file_may_lie_anywhere(tmp_path: Path) -> None:
    """With its sha256 stated, a change is noticed, so a local path outside `ingest.texts` is accepted."""
    pinned = {**GOOD, "path": str(tmp_path / "a.txt"), "sha256": "0" * 64}
    assert params(["mine"], mine=pinned).catalogue["mine"].sha256 == "0" * 64


def test_a_date_without_quotes_is_named() -> None:
    """YAML makes a date of it, also deep within the catalogue."""
    with pytest.raises(ConfigurationError, match=r"ingest\.catalogue\.mine\.origin: YAML reads this as a date"):
        params(["mine"], mine={**GOOD, "origin": datetime.date(2020, 1, 1)})


@pytest.mark.parametrize("texts", [".", "data", "/", "data/documents/.."])
def test_texts_do_not_hold_what_the_stages_make(texts: str) -> None:
    """Or each run would read what the one before wrote."""
    values = {"sources": ["texts"], "texts": texts, "texts_licence": "x"}
    with pytest.raises(ConfigurationError, match="holds what the stages make; name a folder of its own"):
        build(ingest.Params, values, "ingest")
