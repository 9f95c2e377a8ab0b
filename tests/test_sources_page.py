"""docs/sources.md says what the code does: its params are accepted, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.documents import KINDS
from pipeline.params import build
from pipeline.sources.catalogue import Entry
from pipeline.sources.compression import SUFFIXES
from pipeline.sources.formats import FORMATS
from pipeline.stages.ingest import Params

PAGE = (Path(__file__).parent.parent / "docs" / "sources.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_params_of_the_page_are_accepted(example: str) -> None:
    """Every YAML example is a section `ingest` that the stage takes, and names each source that it describes."""
    values = YAML(typ="safe").load(example)["ingest"]
    params = build(Params, values, "docs/sources.md")
    assert set(params.catalogue) <= set(params.sources)


def test_the_page_names_every_format_kind_and_key() -> None:
    """Nothing that can be read or said is missing from the page."""
    told = [
        *KINDS,
        *SUFFIXES,
        *FORMATS,
        *Entry.__dataclass_fields__,
        *(s for f in FORMATS.values() for s in f.suffixes),
    ]
    assert [word for word in told if word not in PAGE] == []
