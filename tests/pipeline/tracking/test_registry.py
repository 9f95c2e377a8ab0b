"""The registry holds each exported model once, knows its champion, and gives back what was put in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import lineage, manifest
from pipeline.errors import DependencyError, GateError, IntegrityError
from pipeline.tracking import registry
from pipeline.tracking.connection import connect

pytestmark = pytest.mark.slow  # a model is logged in two seconds or so

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def exported(made: Any, mlflow_store: Path) -> Any:
    """A project with exports, and an empty registry beside it."""
    assert mlflow_store.parent == made.root
    return made


def with_metrics(project: Any, name: str, **changes: object) -> None:
    """Export the model again with other figures: another digest."""
    folder = project.path(f"exports/{name}")
    before = project.manifest(f"exports/{name}")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != manifest.MANIFEST}
    with manifest.commit(folder, "export", inputs=before.inputs) as draft:
        for file, content in files.items():
            (draft.path / file).write_bytes(content)
        metrics = {k: v for k, v in {**before.facts["metrics"], **changes}.items() if v is not None}
        draft.facts |= {**before.facts, "metrics": metrics}


def register(project: Any, name: str = "base") -> registry.Version:
    """Put the export into the registry, with code that is short to copy."""
    return registry.register(
        name,
        project.path(f"exports/{name}"),
        samples=project.path(f"evaluations/{name}/samples.json"),
        tags={"homegrown.git_commit": "none"},
        code=[REPOSITORY / folder for folder in lineage.CODE],
        requirements=["torch"],
        client=connect(),
    )


def test_champions_follow_the_figures(exported: Any) -> None:
    """First come is champion; again changes nothing; better takes over; worse and other data are challengers."""
    found = [register(exported), register(exported)]
    for changes in ({"bits_per_byte": 1.0}, {"bits_per_byte": 2.0}, {"bits_per_byte": 0.1, "data": "other"}):
        with_metrics(exported, "base", **changes)
        found.append(register(exported))
    assert [(v.version, v.is_new, v.aliases) for v in found] == [
        (1, True, ("champion",)),
        (1, False, ("champion",)),
        (2, True, ("champion",)),
        (3, True, ("challenger",)),
        (4, True, ("challenger",)),
    ]
    assert [v.note.split(":")[0] for v in found[2:4]] == ["not worse", "worse"]
    assert found[4].note == "version 2 was measured on other data; `homegrown promote base 4` decides"
    [row] = registry.summary()
    assert (row.name, row.version, row.aliases, row.value) == ("base", 4, ("challenger",), 0.1)

    registry.promote("base", 4)
    assert {alias: int(v) for alias, v in connect().get_registered_model("base").aliases.items()} == {"champion": 4}
    with pytest.raises(GateError, match="promote: base has no version 9"):
        registry.promote("base", 9)
    answer = registry.load_champion("base").generate(["The cat"], max_new_tokens=3, temperature=0.0)
    from pipeline.loaded_model import load

    assert answer == load(exported.path("exports/base")).generate(["The cat"], max_new_tokens=3, temperature=0.0)


def test_a_promotion_by_hand_lasts(exported: Any) -> None:
    """Going back to an earlier version is not undone when the later one is registered again; a new one may win."""
    for figure in (3.0, 2.0):
        with_metrics(exported, "base", bits_per_byte=figure)
        register(exported)
    registry.promote("base", 1)
    again = register(exported)
    assert (again.version, again.is_new, again.aliases) == (2, False, ())
    assert again.note == (
        "not worse: bits_per_byte 2.0000 against 3.0000 of version 1, which stays champion; "
        "`homegrown promote base 2` decides"
    )
    with_metrics(exported, "base", bits_per_byte=2.5)
    assert register(exported).aliases == ("champion",)


def test_a_version_killed_before_it_had_an_alias_gets_it(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process ends between making a version and deciding on it, the next one decides."""
    with_metrics(exported, "base", bits_per_byte=2.0)
    register(exported)
    with_metrics(exported, "base", bits_per_byte=1.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry, "_choose_alias", _interrupt)
        register(exported)
    again = register(exported)
    assert (again.version, again.is_new, again.aliases) == (2, False, ("champion",))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_the_champion_wrote_is_kept(exported: Any) -> None:
    """The samples of the champion's evaluation come back, whatever a later evaluation has left on disk."""
    samples = exported.path("evaluations/base/samples.json")
    assert registry.champions_samples("base", connect()) == []
    register(exported)
    written = json.loads(samples.read_text())
    with_metrics(exported, "base", bits_per_byte=9.0)
    samples.write_text("[]")
    assert register(exported).aliases == ("challenger",)
    assert registry.champions_samples("base", connect()) == written
    samples.write_text(json.dumps(written))


def test_a_higher_accuracy_is_better(exported: Any) -> None:
    """Where higher is better, an equal figure is not worse and a lower one is."""
    versions: list[registry.Version] = []
    for accuracy in (0.5, 0.99, 0.99, 0.98):
        with_metrics(exported, "spam", accuracy=accuracy, f1=accuracy, test_loss=float(len(versions)))
        versions.append(register(exported, "spam"))
    assert [version.aliases for version in versions] == [("champion",)] * 3 + [("challenger",)]


def test_the_version_carries_what_it_is_and_whence(exported: Any) -> None:
    """Digest, figure and data are tags; the card is the description; it serves from safetensors, not a pickle."""
    import mlflow
    import pandas as pd

    register(exported, "spam")
    client = connect()
    version = client.get_model_version("spam", "1")
    made = exported.manifest("exports/spam")
    assert version.tags["homegrown.digest"] == made.digest
    assert float(version.tags["homegrown.value"]) == made.facts["metrics"]["accuracy"]
    assert version.tags["homegrown.data"] == made.facts["metrics"]["data"]
    assert version.description.startswith("# spam")
    files = [path.name for path in exported.root.joinpath("mlruns").rglob("*") if path.is_file()]
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    served = mlflow.pyfunc.load_model("models:/spam@champion")
    texts = ["win a prize now", "see you soon"]
    answers = served.predict(pd.DataFrame({"text": texts}))
    assert list(answers["label"]) == [a["label"] for a in registry.load_champion("spam").classify(texts)]


def test_a_deleted_registry_is_filled_again(exported: Any) -> None:
    """A version that was deleted comes back from the export, with the alias it deserves."""
    register(exported)
    connect().delete_registered_model("base")
    assert registry.summary() == []
    again = register(exported)
    assert (again.version, again.is_new, again.aliases) == (1, True, ("champion",))


@pytest.mark.parametrize("changes", [{"bits_per_byte": None}, {"main": "nothing"}])
def test_a_model_without_a_figure_is_not_registered(exported: Any, changes: dict[str, object]) -> None:
    """A missing figure fails closed: GateError, and the registry does not know the name."""
    with_metrics(exported, "base", **changes)
    with pytest.raises(GateError, match="a model without a figure is not registered"):
        register(exported)
    assert registry.summary() == []


def test_a_tampered_export_is_not_registered(exported: Any) -> None:
    """One flipped bit in what was exported, and nothing of it reaches the registry."""
    path = exported.path("exports/base/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes are not those of the manifest"):
        register(exported)
    assert registry.summary() == []


def test_a_tampered_champion_refuses_to_start(exported: Any) -> None:
    """A bit flipped in the registry's own copy is found when the model is loaded."""
    register(exported)
    [path] = exported.root.joinpath("mlruns").rglob("model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes are not those of the manifest"):
        registry.load_champion("base")


def test_without_a_champion_the_message_names_what_is_there(exported: Any) -> None:
    """An unknown name is answered with the registered ones, or that there are none yet."""
    with pytest.raises(DependencyError, match=r"base has no champion in the registry \(registered: none yet\)"):
        registry.load_champion("base")


def test_an_mlflow_that_is_not_there_is_named_in_seconds(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is a DependencyError with its address but not its password, and soon."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:SECRET-CANARY@127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(DependencyError) as caught:
        connect()
    assert time.monotonic() - began < 60
    assert "MLflow at http://127.0.0.1:1 does not answer" in str(caught.value)
    assert "SECRET-CANARY" not in str(caught.value)


def test_the_closing_table_is_left_for_the_pipeline(tmp_path: Path) -> None:
    """What register did can be read without asking MLflow again."""
    version = registry.Version("spam", 3, ("champion",), "accuracy", 0.9, True, "the first of its name")
    registry.write_summary([version], tmp_path / "state" / "registered.json")
    assert [registry.Version(**{**row, "aliases": tuple(row["aliases"])}) for row in json.loads(
        (tmp_path / "state" / "registered.json").read_text()
    )] == [version]  # fmt: skip
