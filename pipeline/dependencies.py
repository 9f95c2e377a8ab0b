"""Goes in: the stages' code. Comes out: the `deps` of dvc.yaml: what each stage reads, and each file it imports.

DVC does not follow imports, so an edited function would go unnoticed unless its file is named. Run
`python -m pipeline.dependencies` after an import has changed; a test fails when it was forgotten.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.params import STAGES

DVC_FILE = Path("dvc.yaml")
PACKAGES = ("pipeline", "model")
# Imported by stages, but unable to change what they write: a better error message must not retrain a model.
WITHOUT_EFFECT = frozenset(
    Path("pipeline") / name
    for name in (
        "data_docs.py",
        "errors.py",
        "params.py",
        "pictures.py",
        "processor.py",
        "report.py",
        "training_pace.py",
        "training_plan.py",
    )
)


def import_closure(module: str, root: Path = Path()) -> list[Path]:
    """Every file of ours that importing and running `module` may load, itself included, relative to `root`, sorted."""
    found: set[Path] = set()
    waiting = [_file_of(module, root)]
    while waiting:
        file = waiting.pop()
        if file is None or file in found or file in WITHOUT_EFFECT:
            continue
        found.add(file)
        waiting += [_file_of(name, root) for name in _imports(root / file)]
    return sorted(found)


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


def _imports(file: Path) -> set[str]:
    """Names of our modules that a file imports, anywhere in it but under TYPE_CHECKING."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from pipeline.cleaning import empty` may mean a module as well as a name in one.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _file_of(module: str, root: Path) -> Path | None:
    """The file of a module of ours; None for what is not a module, or is a package of a docstring only."""
    path = Path(*module.split("."))
    if (root / path.with_suffix(".py")).is_file():
        return path.with_suffix(".py")
    package = path / "__init__.py"
    if (root / package).is_file() and len(ast.parse((root / package).read_bytes()).body) > 1:
        return package
    return None


if __name__ == "__main__":
    changed = update()
    print(f"{DVC_FILE}: {'rewritten' if changed else 'already right'}")
    sys.exit(0)
