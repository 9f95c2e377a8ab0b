"""Goes in: the stages' code. Comes out: the `deps` of dvc.yaml: what each stage reads, and each file it imports.

DVC does not follow imports, so an edited function would go unnoticed unless its file is named. Run
`python -m pipeline.dependencies` after an import has changed; a test fails when it was forgotten.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.import_closure import import_closure
from pipeline.params import STAGES

DVC_FILE = Path("dvc.yaml")


def dependencies(stage: str, root: Path = Path()) -> list[str]:
    """The `deps` of a stage: its code, then its READS as they stand there, `${name}` and `${start}` included."""
    module = importlib.import_module(f"pipeline.stages.{stage}")
    code = [file.as_posix() for file in import_closure(f"pipeline.stages.{stage}", root)]
    return [*code, *module.READS.values()]


def update(path: Path = DVC_FILE) -> bool:
    """Rewrite every `deps` of dvc.yaml; True if that changed the file."""
    editor = YAML()
    editor.width = 120
    editor.indent(mapping=2, sequence=4, offset=2)
    before = path.read_text(encoding="utf-8")
    graph = editor.load(before)
    for stage in STAGES:
        body, item = definition(graph["stages"][stage])
        wanted = [spelled(dep, item) for dep in dependencies(stage, path.parent)]
        if list(body["deps"]) != wanted:
            body["deps"] = wanted
    with path.open("w", encoding="utf-8") as file:
        editor.dump(graph, file)
    return path.read_text(encoding="utf-8") != before


def definition(stage: Any) -> tuple[Any, str]:
    """The body of a stage in dvc.yaml, and what stands for the model's name in it (`${key}` or `${item}`)."""
    if "foreach" not in stage:
        return stage, "${name}"
    return stage["do"], "${key}" if stage["foreach"] == "${finetunes}" else "${item}"


def spelled(path: str, item: str) -> str:
    """A path of READS or WRITES as dvc.yaml has it, where `item` stands for the model's name."""
    return path.replace("${name}", item).replace("${start}", "${item.start}")


if __name__ == "__main__":
    changed = update()
    print(f"{DVC_FILE}: {'rewritten' if changed else 'already right'}")
    sys.exit(0)
