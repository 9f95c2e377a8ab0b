"""The registry tells which data a version was made from, and bears the mark of what was erased of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.connection import connect
from pipeline.tracking.lineage_tags import mark_erased, registered_versions


def test_without_a_registry_there_are_no_versions_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking where nothing was ever registered answers at once and leaves no database behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registered_versions() == []
    assert list(tmp_path.iterdir()) == []


def test_versions_name_their_lineage_and_keep_every_mark(mlflow_store: Path) -> None:
    """Marks add up, however many ids there are; the card stays, with one note at its end that counts them."""
    client = connect()
    client.create_registered_model("base")
    tags = {"homegrown.lineage.tokens": "4f", "homegrown.lineage.documents.clean": "5a", "homegrown.task": "x"}
    client.create_model_version("base", str(mlflow_store.parent), tags=tags, description="# base")
    client.set_registered_model_alias("base", "champion", "1")
    [found] = registered_versions()
    assert (found.name, found.version, found.aliases, found.task) == ("base", 1, ("champion",), "x")
    assert found.lineage == {"tokens": "4f", "documents.clean": "5a"}

    ids = [f"{number:064x}" for number in range(100)]
    assert mark_erased("base", 1, ids[:2]) == 2
    assert mark_erased("base", 1, ids[1:]) == 100
    version = client.get_model_version("base", "1")
    assert version.tags["homegrown.erased_documents"] == "100"
    named = ",".join(version.tags[f"homegrown.erased_documents.{part}"] for part in (0, 1)).split(",")
    assert named == ids
    assert version.description.startswith("# base\n\n> **Erased since:** 100 records")
    assert version.description.count("Erased since") == 1
