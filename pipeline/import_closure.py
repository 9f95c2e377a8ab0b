"""The name of a module in, all of our files out that importing and running it may load, and one digest of them.

The code is read, not run: an import inside a function counts, one under TYPE_CHECKING does not.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.digests import digest_of

ROOT = Path(__file__).resolve().parent.parent
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
_HOLDING_STATEMENTS = ("body", "orelse", "finalbody", "handlers", "cases")


@cache
def code_of(module: str, root: Path = ROOT) -> str:
    """One digest of all the code that decides what `module` makes, as it is when this is first asked."""
    return digest_of({f.as_posix(): _sha256(root / f) for f in import_closure(module, root)})


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


@cache
def _imports(file: Path) -> set[str]:
    """Names of our modules that a file imports, anywhere in it but under TYPE_CHECKING."""
    names: set[str] = set()
    waiting: list[Any] = [ast.parse(file.read_bytes())]
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
        for part in _HOLDING_STATEMENTS:  # all nodes would take ten times as long, and an import is a statement
            waiting += getattr(node, part, ())
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


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
