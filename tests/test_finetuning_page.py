"""docs/finetuning.md says what the code does: its entries and settings are accepted, its tables are complete."""

from __future__ import annotations

import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ruamel.yaml import YAML

from model.templates import TEMPLATES, template_of
from pipeline.params import build
from pipeline.set_params import set_values
from pipeline.stages.finetune import Params

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
BLOCKS: list[dict[str, Any]] = [
    YAML(typ="safe").load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
]


def test_the_entries_are_accepted_as_they_stand() -> None:
    """Both entries have every setting that is needed, and the template of one's own has its slots."""
    entries, own = BLOCKS
    assert [build(Params, entry, "docs/finetuning.md").start for entry in entries["finetunes"].values()] == [
        "base",
        "answers",
    ]
    assert template_of(own["template"]).prompt("Why?") == "Question: Why?\nAnswer: "


def test_every_task_template_and_choice_is_on_the_page() -> None:
    """A task, a template or a setting with a default that the page does not name fails this test."""
    choices = get_args(get_type_hints(Params)["task"])
    optional = [field.name for field in fields(Params) if field.default is not MISSING]
    for name in (*choices, *TEMPLATES, *optional):
        assert f"`{name}`" in PAGE or f"`{name}:" in PAGE, name


def test_the_commands_set_what_there_is(tmp_path: Path) -> None:
    """Each `--set` of the page is accepted by params.yaml as it is."""
    params = tmp_path / "params.yaml"
    commands = re.findall(r"^homegrown run .*$", PAGE, re.MULTILINE)
    assert commands
    for command in commands:
        params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        words = shlex.split(command)
        settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        set_values(params, dict(setting.split("=", 1) for setting in settings))
