"""dvc.yaml and the code say the same: stages, what they read and write, params, and the files they import."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import dependencies, params

ROOT = Path(__file__).parent.parent
GRAPH: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")
OFFERED = {"compute", "name", "models", "report", "params"}


def body_of(stage: str) -> tuple[dict[str, Any], str]:
    """The stage's definition, and how it spells the model's name."""
    return dependencies.definition(GRAPH["stages"][stage])


def test_the_stages_are_those_of_the_code_in_the_same_order() -> None:
    """dvc.yaml, params.py and the folder of stages list the same stages."""
    assert tuple(GRAPH["stages"]) == params.STAGES
    files = {file.stem for file in (ROOT / "pipeline" / "stages").glob("*.py")} - {"__init__"}
    assert files == set(params.STAGES)


@pytest.mark.parametrize("stage", params.STAGES)
def test_deps_are_the_import_closure_and_what_is_read(stage: str) -> None:
    """Every file of ours that a stage imports is a dep, so that an edit re-runs it.

    When this fails, `python -m pipeline.dependencies` mends dvc.yaml.
    """
    body, name = body_of(stage)
    assert body["deps"] == [dependencies.spelled(dep, name) for dep in dependencies.dependencies(stage, ROOT)]


@pytest.mark.parametrize("stage", params.STAGES)
def test_outs_are_what_is_written(stage: str) -> None:
    """A stage's outs are its WRITES; nothing else of it is versioned."""
    body, name = body_of(stage)
    module = importlib.import_module(f"pipeline.stages.{stage}")
    assert body.get("outs", []) == [dependencies.spelled(path, name) for path in module.WRITES.values()]


@pytest.mark.parametrize("stage", params.STAGES)
def test_run_takes_what_the_stage_reads_and_writes(stage: str) -> None:
    """`run(params, *, reads…, writes…, report)`, with compute, name or models where it needs them."""
    module = importlib.import_module(f"pipeline.stages.{stage}")
    names = set(inspect.signature(module.run).parameters)
    assert {*module.READS, *module.WRITES, "params", "report"} <= names
    assert names <= {*module.READS, *module.WRITES} | OFFERED


@pytest.mark.parametrize("stage", params.STAGES)
def test_params_are_tracked(stage: str) -> None:
    """A stage tracks its section and the preset's differences, so that changing either re-runs it."""
    body, name = body_of(stage)
    section = f"finetunes.{name}" if stage == "finetune" else stage
    assert {section, "presets.${preset}." + stage} <= set(body["params"])


@pytest.mark.parametrize("stage", params.STAGES)
def test_the_command_is_the_stage_by_name(stage: str) -> None:
    """`python -m pipeline STAGE [NAME]`: never a path, which would shadow the standard library's tokenize.

    `exec` takes the shell's place: a shell between DVC and the stage would keep a stage alive whose DVC was killed.
    """
    body, name = body_of(stage)
    takes_name = "name" in inspect.signature(importlib.import_module(f"pipeline.stages.{stage}").run).parameters
    assert body["cmd"] == f"exec python -m pipeline {stage}" + (f" {name}" if takes_name else "")


def test_every_preset_loads() -> None:
    """params.yaml is accepted whole, under each of its presets."""
    file = params.load(ROOT / "params.yaml")
    for preset in file.content["presets"]:
        file.under(preset).check()


def test_importing_a_stage_loads_nothing_heavy() -> None:
    """Checking all params imports neither torch nor MLflow nor Great Expectations."""
    import subprocess
    import sys

    script = (
        "import sys; from pathlib import Path; from pipeline.params import load; load().check();"
        "print(sorted({'torch', 'mlflow', 'great_expectations', 'prefect', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_import_closure_follows_imports_inside_functions(tmp_path: Path) -> None:
    """An import in a function's body counts, one under TYPE_CHECKING does not."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline.c import C\n"
        "def f():\n    from pipeline import b\n    return b\n"
    )
    (tmp_path / "pipeline" / "b.py").write_text("import os\n")
    (tmp_path / "pipeline" / "c.py").write_text("class C: ...\n")
    assert dependencies.import_closure("pipeline.a", tmp_path) == [Path("pipeline/a.py"), Path("pipeline/b.py")]
