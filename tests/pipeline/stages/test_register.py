"""The register stage fills an empty registry, leaves a full one alone, and names every model's ancestors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, DependencyError, GateError
from pipeline.lineage import ancestors
from pipeline.stages.register import _refuse_forgetful
from pipeline.tracking.connection import connect

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def exported(made: Any, mlflow_store: Path) -> Any:
    """A project with exports, its code, and an empty registry."""
    for folder in ("pipeline", "model"):
        shutil.copytree(REPOSITORY / folder, made.root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return made


@pytest.mark.slow
def test_registering_twice_makes_one_version_each(exported: Any) -> None:
    """Three models, one version each, all champions; the second run finds them, and a deleted one comes back."""
    first = exported.run("register", prefix="tiny-")
    second = exported.run("register", prefix="tiny-")
    assert (first.numbers, second.numbers) == ({"registered": 3, "models": 3}, {"registered": 0, "models": 3})
    client = connect()
    names = sorted(model.name for model in client.search_registered_models())
    assert names == ["tiny-assistant", "tiny-base", "tiny-spam"]
    assert [int(client.get_registered_model(name).aliases["champion"]) for name in names] == [1, 1, 1]
    page = (exported.root / "data" / "reports" / "run" / "index.html").read_text()
    assert page.index("<h2>base</h2>") < page.index("<h2>spam</h2>") and "/models/tiny-spam/versions/1" in page
    assert (Path("data/reports/run") in first.kept, Path("data/reports/run") in second.kept) == (True, False)
    summary = json.loads((exported.root / ".homegrown" / "registered.json").read_text())
    assert [(row["name"], row["version"], row["is_new"]) for row in summary] == [
        ("tiny-base", 1, False),
        ("tiny-assistant", 1, False),
        ("tiny-spam", 1, False),
    ]

    tags = client.get_model_version("tiny-spam", "1").tags
    lineage = {key: value for key, value in tags.items() if key.startswith("homegrown.lineage.")}
    expected = ancestors(exported.path("exports/spam"), exported.path(""))
    assert lineage == {f"homegrown.lineage.{place.replace('/', '.')}": digest for place, digest in expected.items()}
    assert set(tags) >= {"homegrown.git_commit", "homegrown.git_changed", "homegrown.code", "homegrown.params"}

    # What a model was made of may be gone by now; its digest is kept all the same.
    tokens = exported.manifest("tokens").digest
    shutil.rmtree(exported.path("tokens"))
    client.delete_registered_model("tiny-spam")
    third = exported.run("register", prefix="tiny-")
    assert third.numbers == {"registered": 1, "models": 3}
    assert int(client.get_registered_model("tiny-spam").aliases["champion"]) == 1
    assert client.get_model_version("tiny-spam", "1").tags["homegrown.lineage.tokens - not here"] == tokens


@pytest.mark.slow
def test_mlflow_is_asked_only_when_something_has_changed(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With registry, exports and page as they were, MLflow is not loaded; a page that is gone is made again."""
    exported.run("register")
    with monkeypatch.context() as without:
        without.setattr("pipeline.tracking.connection.connect", lambda: pytest.fail("MLflow was asked"))
        assert exported.run("register").numbers == {"registered": 0, "models": 3}
    page = exported.root / "data" / "reports" / "run" / "index.html"
    page.unlink()
    exported.run("register")
    assert page.is_file()


def test_a_missing_export_is_an_error(exported: Any) -> None:
    """A model that was not exported stops the stage, and the message names the folder."""
    shutil.rmtree(exported.path("exports/base"))
    with pytest.raises(DataError, match=r"exports/base/manifest\.json: not there"):
        exported.run("register")


@pytest.mark.parametrize(("forgotten", "refused"), [(0.5, False), (0.51, True), (float("nan"), True)])
def test_a_model_that_forgot_too_much_is_refused(forgotten: float, refused: bool) -> None:
    """Fine-tuning may cost as much of the base's text as params allow and not a bit more; the base has no figure."""
    facts = {"bits_per_byte_before": 1.5, "bits_per_byte_after": 1.5 + forgotten}
    _refuse_forgetful("base", None, 0.5)
    if not refused:
        _refuse_forgetful("spam", facts, 0.5)
        return
    with pytest.raises(GateError, match=r"spam forgot .* register\.maximum_forgetting is 0\.5"):
        _refuse_forgetful("spam", facts, 0.5)


@pytest.mark.slow
def test_an_mlflow_that_is_not_there_is_a_dependency_error(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MLflow the stage ends in one line that says what to start or correct."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(DependencyError, match="start it or correct MLFLOW_TRACKING_URI, then run again"):
        exported.run("register")
