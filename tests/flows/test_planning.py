"""`homegrown plan` prints what pretraining will take, for params as they are or as they might be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows import planning
from pipeline.errors import ConfigurationError, InputOutputError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's params and nothing else."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A preset and settings are only supposed; params.yaml keeps its bytes, and what is assumed is said."""
    before = (root / "params.yaml").read_bytes()
    planning.show(root, "dial", {"pretrain.depth": "2", "compute.threads": "1"}, as_json=True)
    planned = json.loads(capsys.readouterr().out)
    assert (planned["params"]["n_layers"], planned["params"]["d_model"]) == (2, 128)
    assert planned["assumed"] == ["there are no tokens yet: the 8,192 words of tokenize.vocab_size"]
    assert planned["parameters_total"] == sum(planned["parameters"].values())
    assert (root / "params.yaml").read_bytes() == before
    planning.show(root, None, {"pretrain.steps": "20", "compute.threads": "1"})
    assert "40,960 tokens (no corpus yet)" in capsys.readouterr().out


def test_mistakes_are_refused(root: Path) -> None:
    """An unknown preset or key, and what does not fit, end with the reason."""
    with pytest.raises(ConfigurationError, match=r"there is no preset 'smal'; did you mean 'small'\?"):
        planning.show(root, "smal", {})
    with pytest.raises(ConfigurationError, match="unknown key 'step'"):
        planning.show(root, None, {"pretrain.step": "3"})
    with pytest.raises(InputOutputError, match="of memory where"):
        planning.show(root, None, {"pretrain.batch_size": "10000000", "compute.threads": "1"})


def test_a_dial_holds_together(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever one value is given beside the depth, the model as it will be sees twenty tokens for each weight."""
    for given in ({}, {"batch_size": "1"}, {"gradient_accumulation": "1"}, {"n_layers": "12"}, {"d_model": "192"}):
        settings = {f"pretrain.{name}": value for name, value in given.items()}
        planning.show(root, "dial", {**settings, "compute.threads": "1"}, as_json=True)
        planned = json.loads(capsys.readouterr().out)
        parts = planned["parameters"]
        weights = parts["attention"] + parts["feed_forward"] + (parts["head"] or parts["token_embedding"])
        assert planned["tokens"] / weights == pytest.approx(20, rel=0.01)
        assert {name: str(planned["params"][name]) for name in given} == given
