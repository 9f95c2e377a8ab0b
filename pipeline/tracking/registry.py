"""Goes in: exported models with their figures. Comes out: versions in MLflow's registry, and who is champion.

A version carries the digest of what was exported as a tag, so registering twice changes nothing, and a registry that
was deleted is filled again. Aliases have no compare-and-set in MLflow: one lock on this machine stands in for it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline import manifest
from pipeline.errors import DependencyError, GateError
from pipeline.evaluations.figures import SAMPLES_FILE
from pipeline.loaded_model import LoadedModel, load
from pipeline.tracking.connection import connect, experiment_id, mlflow_errors
from pipeline.tracking.spool import STATE

CHAMPION, CHALLENGER = "champion", "challenger"
IS_CHAMPION = "is the champion"
DIGEST_TAG = "homegrown.digest"
# Made with a version and taken away once its alias is decided, so that a kill in between leaves nothing undecided.
_UNDECIDED_TAG = "homegrown.undecided"
_PROMOTION_LOCK = STATE / "locks" / "promotion.lock"
_SERVED_MODEL = Path(__file__).with_name("served_model.py")


@dataclass(frozen=True)
class Version:
    """A registered model version, as the summary shows it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    metric: str
    value: float
    is_new: bool
    note: str


def register(
    name: str,
    export: Path,
    *,
    samples: Path,
    tags: Mapping[str, str],
    code: Sequence[Path],
    requirements: Sequence[str],
    client: Any,
) -> Version:
    """Make sure that the exported model is in the registry; a new version is champion if it deserves to be.

    One that was there before is made champion only where there is none: who moved an alias by hand has decided.
    `samples`, what it wrote when it was evaluated, is kept with it, to be read beside those of later versions.

    Raises GateError for a figure that is missing or not a number, DependencyError if MLflow does not answer.
    """
    made = manifest.verify(export)
    metrics = made.facts["metrics"]
    main, value = str(metrics["main"]), float(metrics.get(metrics["main"], math.nan))
    if not math.isfinite(value):
        raise GateError(f"register: {name}: {main} is {value}; a model without a figure is not registered")
    tags = {
        **tags,
        DIGEST_TAG: made.digest,
        "homegrown.metric": main,
        "homegrown.value": repr(value),
        "homegrown.higher_is_better": str(bool(metrics["higher_is_better"])),
        "homegrown.data": str(metrics["data"]),
    }
    with mlflow_errors(), promotion_lock():
        known = [v for v in _versions(client, name) if v.tags.get(DIGEST_TAG) == made.digest]
        number = (
            int(known[0].version) if known else _create(client, name, export, samples, made, tags, code, requirements)
        )
        undecided = _UNDECIDED_TAG in client.get_model_version(name, str(number)).tags
        alias, note = _choose_alias(client, name, number, undecided)
        if alias == CHAMPION:
            _make_champion(client, name, number)
        elif alias:
            client.set_registered_model_alias(name, alias, str(number))
        if undecided:
            client.delete_model_version_tag(name, str(number), _UNDECIDED_TAG)
        aliases = tuple(sorted(a for a, v in _aliases(client, name).items() if v == number))
    return Version(name, number, aliases, main, value, not known, note)


def _create(
    client: Any,
    name: str,
    export: Path,
    samples: Path,
    made: manifest.Manifest,
    tags: Mapping[str, str],
    code: Sequence[Path],
    requirements: Sequence[str],
) -> int:
    """Log the model under a run of its own and make a version of it; its number."""
    import mlflow
    import mlflow.pyfunc

    signature, example = _signature(made.facts["task"])
    with mlflow.start_run(experiment_id=experiment_id(client), run_name=f"register-{name}", tags=dict(tags)):
        mlflow.log_metrics({k: v for k, v in made.facts["metrics"].items() if isinstance(v, float)})
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(_SERVED_MODEL),
            artifacts={"export": str(export)},
            code_paths=[str(path) for path in code],
            signature=signature,
            input_example=example,
            pip_requirements=list(requirements),
            registered_model_name=None,
        )
        if samples.exists():
            mlflow.log_artifact(str(samples))
        card = (export / "README.md").read_text(encoding="utf-8")
        if not _exists(client, name):
            client.create_registered_model(name, description=card)
        version = client.create_model_version(
            name, logged.model_uri, run_id=mlflow.active_run().info.run_id, tags={**tags, _UNDECIDED_TAG: "True"},
            description=card, model_id=logged.model_id,
        )  # fmt: skip
    return int(version.version)


def _signature(task: str) -> tuple[Any, Any]:
    """What goes in and comes out, and an example of it."""
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Map

    text = DataType.string
    if task == "classification":
        outputs = Schema([ColSpec(text, "label"), ColSpec(Map(DataType.double), "probabilities")])
        return ModelSignature(Schema([ColSpec(text, "text")]), outputs), pd.DataFrame({"text": ["see you at eight"]})
    talks = task in ("instructions", "preferences")
    inputs = [ColSpec(text, "prompt", required=not talks)]
    if task == "instructions":
        inputs.append(ColSpec(text, "input", required=False))
    if talks:
        # Not Array(Object(role, content)), though MLflow has it: with an array anywhere in a signature it makes one row
        # of all prompts that come by column or as `instances`, and refuses rows with messages beside rows without.
        inputs.append(ColSpec(AnyType(), "messages", required=False))
    options = ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, 64),
            ParamSpec("temperature", DataType.double, 0.0 if task == "instructions" else 0.7),
            ParamSpec("top_k", DataType.long, 50),
            ParamSpec("seed", DataType.long, 0),
        ]
    )
    example = {"prompt": ["Which colour is named?"], "input": ["The door is green."]}
    if task != "instructions":
        example = {"prompt": ["Return the"]}
    return ModelSignature(Schema(inputs), Schema([ColSpec(text, "text")]), options), pd.DataFrame(example)


def _choose_alias(client: Any, name: str, number: int, undecided: bool) -> tuple[str | None, str]:
    """The alias that this version should take now, if any, and why it has the one it has."""
    aliases = _aliases(client, name)
    champion = aliases.get(CHAMPION)
    if champion == number:
        return None, IS_CHAMPION
    if champion is None:
        return CHAMPION, "the first of its name"
    new, old = (client.get_model_version(name, str(v)).tags for v in (number, champion))
    if new["homegrown.data"] != old.get("homegrown.data") or new["homegrown.metric"] != old.get("homegrown.metric"):
        note = f"version {champion} was measured on other data; `homegrown promote {name} {number}` decides"
        return CHALLENGER if undecided else None, note
    ours, theirs = float(new["homegrown.value"]), float(old["homegrown.value"])
    better = ours >= theirs if new["homegrown.higher_is_better"] == "True" else ours <= theirs
    comparison = f"{new['homegrown.metric']} {ours:.4f} against {theirs:.4f} of version {champion}"
    if not better:
        return CHALLENGER if undecided else None, f"worse: {comparison}"
    if undecided:
        return CHAMPION, f"not worse: {comparison}"
    return None, f"not worse: {comparison}, which stays champion; `homegrown promote {name} {number}` decides"


def _make_champion(client: Any, name: str, number: int) -> None:
    """Give a version the alias, and take that of a challenger from it."""
    client.set_registered_model_alias(name, CHAMPION, str(number))
    if _aliases(client, name).get(CHALLENGER) == number:
        client.delete_registered_model_alias(name, CHALLENGER)


def promote(name: str, number: int) -> None:
    """Make a version champion by hand; GateError if there is no such version or it has no figure."""
    client = connect()
    with mlflow_errors(), promotion_lock():
        found = [v for v in _versions(client, name) if int(v.version) == number]
        if not found:
            raise GateError(f"promote: {name} has no version {number}")
        if not math.isfinite(float(found[0].tags.get("homegrown.value", "nan"))):
            raise GateError(f"promote: version {number} of {name} was never evaluated")
        _make_champion(client, name, number)


def load_champion(name: str) -> LoadedModel:
    """The champion of that name, from the registry, its bytes checked; DependencyError if there is none."""
    import mlflow.artifacts

    client = connect()
    with mlflow_errors():
        number = _aliases(client, name).get(CHAMPION) if _exists(client, name) else None
        if number is None:
            names = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none yet"
            raise DependencyError(
                f"{name} has no champion in the registry (registered: {names}); `homegrown run` makes one"
            )
        uri = f"models:/{name}/{number}"
        with tempfile.TemporaryDirectory(prefix="homegrown-") as folder:
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
            export = next(path.parent for path in local.rglob(manifest.MANIFEST))
            return load(export)


def champions_samples(name: str, client: Any) -> list[dict[str, str]]:
    """What the champion of that name wrote when it was evaluated; none where there is no champion or no record."""
    import mlflow.artifacts

    with mlflow_errors():
        number = _aliases(client, name).get(CHAMPION) if _exists(client, name) else None
        if number is None:
            return []
        run_id = client.get_model_version(name, str(number)).run_id
        if not any(entry.path == SAMPLES_FILE for entry in client.list_artifacts(run_id)):
            return []
        samples: list[dict[str, str]] = mlflow.artifacts.load_dict(f"runs:/{run_id}/{SAMPLES_FILE}")
        return samples


def summary() -> list[Version]:
    """The newest version of every registered model."""
    client = connect()
    rows = []
    with mlflow_errors():
        for model in client.search_registered_models():
            newest = max(_versions(client, model.name), key=lambda v: int(v.version), default=None)
            if newest is None or DIGEST_TAG not in newest.tags:
                continue
            number = int(newest.version)
            aliases = tuple(sorted(a for a, v in _aliases(client, model.name).items() if v == number))
            value = float(newest.tags["homegrown.value"])
            rows.append(Version(model.name, number, aliases, newest.tags["homegrown.metric"], value, False, ""))
    return sorted(rows, key=lambda row: row.name)


def write_summary(versions: Sequence[Version], path: Path) -> None:
    """Leave what register did where the pipeline's closing table finds it without asking MLflow again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(version) for version in versions], indent=2) + "\n", encoding="utf-8")


@contextmanager
def promotion_lock() -> Iterator[None]:
    """Only one process on this machine moves aliases at a time; the lock is free when its holder dies."""
    _PROMOTION_LOCK.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_PROMOTION_LOCK):
        yield


def _versions(client: Any, name: str) -> list[Any]:
    return list(client.search_model_versions(f"name='{name}'"))


def _aliases(client: Any, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _exists(client: Any, name: str) -> bool:
    return bool(client.search_registered_models(f"name='{name}'"))
