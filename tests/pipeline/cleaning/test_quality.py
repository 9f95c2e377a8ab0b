"""The table of quality rules is complete, and rules are switched one by one."""

from __future__ import annotations

import re
import weakref
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.cleaning import c4
from pipeline.cleaning.quality import NAMES, RULES, reasons_to_drop
from pipeline.cleaning.words import Batch
from pipeline.params import build
from pipeline.stages.clean import Params

ROOT = Path(__file__).resolve().parents[3]


def test_every_rule_can_be_named_in_params() -> None:
    """The names that params may hold are those of the rules, and of the one rule that takes lines out."""
    assert (c4.LINES, *RULES) == NAMES


def test_only_the_rules_that_are_named_hold() -> None:
    """A text that breaks two rules is dropped by the first of those that are on, or by none."""
    batch = Batch(["# {"])
    assert reasons_to_drop(batch, []) == {}
    assert reasons_to_drop(batch, ["gopher-words"])[0].startswith("gopher-words: 0 words")
    assert reasons_to_drop(batch, ["gopher-words", "c4-curly-brackets"])[0].startswith("c4-curly-brackets: 1 ")


def test_an_empty_batch_has_no_reasons() -> None:
    """Texts without a word break rules; they break none of the code."""
    assert set(reasons_to_drop(Batch(["", "  "]), ["gopher-words", *NAMES])) == {0, 1}


def test_the_page_about_cleaning_names_every_rule_and_its_example_is_right() -> None:
    """docs/cleaning.md lists the rules and every key of `clean:`; its example for the web is accepted as it stands."""
    page = (ROOT / "docs" / "cleaning.md").read_text(encoding="utf-8")
    spelled_out = page.replace(
        "repeated-5-grams … repeated-10-grams", " ".join(f"repeated-{n}-grams" for n in range(5, 11))
    )
    assert [name for name in NAMES if name not in spelled_out.split("## For a crawl of the web")[0]] == []
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    values = YAML(typ="safe").load(example)["clean"]
    assert build(Params, values, "docs/cleaning.md").quality == tuple(values["quality"])
    assert set(values["quality"]) == set(NAMES) - {c4.LINES}


def test_a_batch_is_forgotten_when_its_rules_have_spoken() -> None:
    """What rules share of it does not keep it: memory is that of one batch, however many there are."""
    batch = Batch(["One line.\nAnother line.\n\nOne line."])
    reasons_to_drop(batch, NAMES)
    left = weakref.ref(batch)
    del batch
    assert left() is None
