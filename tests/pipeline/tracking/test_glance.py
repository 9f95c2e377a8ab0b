"""A registry that has not changed is known without MLflow; any change to it is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import glance
from pipeline.tracking.connection import connect
from pipeline.tracking.registry import Version

FOUND = [
    Version("spam", 1, ("champion",), "accuracy", 0.9, True, "the first of its name"),
    Version("spam", 2, ("challenger",), "accuracy", 0.8, False, "worse: accuracy 0.8000 against 0.9000 of version 1"),
]
AS_A_LATER_LOOK_FINDS_THEM = [
    Version("spam", 1, ("champion",), "accuracy", 0.9, False, "is the champion"),
    Version("spam", 2, ("challenger",), "accuracy", 0.8, False, "worse: accuracy 0.8000 against 0.9000 of version 1"),
]


@pytest.fixture
def registry(mlflow_store: Path) -> Any:
    """A client of a registry with one model of two versions, as it was when it was last looked at."""

    client = connect()
    client.create_registered_model("spam")
    for _ in FOUND:
        client.create_model_version("spam", "/models/1", run_id=None)
    client.set_registered_model_alias("spam", "champion", "1")
    glance.remember("wish", FOUND)
    return client


@pytest.mark.slow
def test_an_unchanged_registry_gives_what_was_found(registry: Any) -> None:
    """Runs that are recorded meanwhile change nothing; another wish finds nothing."""
    registry.log_metric(registry.create_run(registry.create_experiment("other")).info.run_id, "loss", 1.0)
    assert glance.recall("wish") == AS_A_LATER_LOOK_FINDS_THEM
    assert glance.recall("another wish") is None


CHANGES: dict[str, Callable[[Any], object]] = {
    "alias moved": lambda client: client.set_registered_model_alias("spam", "champion", "2"),
    "alias gone": lambda client: client.delete_registered_model_alias("spam", "champion"),
    "version tagged": lambda client: client.set_model_version_tag("spam", "2", "erased", "a document"),
    "version gone": lambda client: client.delete_model_version("spam", "2"),
    "version new": lambda client: client.create_model_version("spam", "/models/2", run_id=None),
    "model gone": lambda client: client.delete_registered_model("spam"),
    "model new": lambda client: client.create_registered_model("other"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_to_the_registry_is_seen(registry: Any, change: str) -> None:
    """Whatever is done to a model or a version, MLflow is asked again."""
    CHANGES[change](registry)
    assert glance.recall("wish") is None


@pytest.mark.slow
def test_what_is_no_file_is_always_asked(registry: Any, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server, a registry elsewhere and a database that is gone have no digest, and so nothing is recalled."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:1")
        assert glance.recall("wish") is None
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        glance.remember("wish", FOUND)
        assert glance.recall("wish") is None
    glance.remember("wish", FOUND)
    mlflow_store.unlink()
    assert glance.recall("wish") is None
