"""Goes in: params.yaml. Comes out: a stage's frozen dataclass of parameters, or one line that says what is wrong.

The base sections are the small run. `preset` names the entry of `presets` whose differences are laid over them; a
preset names every stage, because DVC tracks `presets.NAME.STAGE` and refuses a key that is not there. Unknown keys are
refused with the nearest known one, so that a typo never trains a model with a default nobody meant.
"""

from __future__ import annotations

import datetime
import difflib
import importlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from pipeline.errors import ConfigurationError
from pipeline.yaml_file import read

PARAMS_FILE = "params.yaml"
STAGES = ("ingest", "clean", "validate", "tokenize", "pretrain", "finetune", "evaluate", "export", "register")
BASE_MODEL = "base"
LARGEST_SEED = 2**63 - 1
"""Of more than 64 bits torch says "Overflow when unpacking long long"."""
SECTIONS = ("preset", "compute", *(s for s in STAGES if s != "finetune"), "finetunes", "models", "presets")
# dvc.yaml names these among what a stage reads, and there it cannot look into a preset: stage, key, where it stands.
_NOT_IN_A_PRESET = (("ingest", "texts", "ingest.texts"), ("finetune", "start", "finetunes.NAME.start"))
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class Compute:
    """Where the work runs. No stage tracks it, so changing it re-runs nothing; what changes results is tracked."""

    device: str
    """auto (CUDA, then MPS, then CPU), cpu, cuda or mps."""
    threads: int
    """CPU threads for torch; 0 takes every core this process may use, or half of them for a small model, see
    pipeline/processor.py."""
    checkpoint_every_seconds: int
    """Seconds of training between two checkpoints to resume from."""
    engine: str = "embedded"
    """Where documents are cleaned and encoded: embedded (this machine's processes) or ray (a Ray cluster)."""
    address: str = ""
    """The Ray cluster, say ray://host:10001; empty starts one on this machine. Its nodes must see the same files."""
    workers: int = 1
    """Processes that read PDF, Word, Parquet and Arrow files, and clean and encode documents, where there are enough
    of them; 0 takes every core, on Ray of the cluster."""
    processes: int = 1
    """Processes of this machine that pretrain together; 0 takes every GPU, or one process where none is."""
    nodes: int = 1
    """Machines that pretrain together; each runs the same command, see docs/training.md."""
    shard_model: bool = False
    """With several processes, cut the model over them (FSDP2) instead of giving each the whole of it (DDP)."""
    allow_changed_resume: bool = False
    """Go on from a checkpoint of other threads, processes, precision or torch; the artefact then says so."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda", "mps"):
            raise ValueError(f"device is {self.device!r}; choose auto, cpu, cuda or mps")
        if self.engine not in ("embedded", "ray"):
            raise ValueError(f"engine is {self.engine!r}; choose embedded or ray")
        if self.address and self.engine != "ray":
            raise ValueError("address is of use with the engine ray only; empty it or set engine: ray")
        if self.workers < 0 or self.processes < 0:
            raise ValueError("workers and processes must be 0 or more")
        if self.nodes < 1:
            raise ValueError("nodes must be 1 or more")
        if self.threads < 0 or self.checkpoint_every_seconds < 1:
            raise ValueError("threads must be 0 or more and checkpoint_every_seconds 1 or more")

    @property
    def thread_count(self) -> int:
        """The number of CPU threads to use."""
        return self.threads or cores()

    @property
    def worker_count(self) -> int:
        """The processes of this machine that work on documents."""
        return self.workers or cores()

    def sized(self, n_bytes: int, bytes_per_worker: int) -> Compute:
        """The same with no more workers than there is work for: each takes half a second to begin."""
        if self.engine == "ray":
            return self
        return replace(self, workers=min(self.worker_count, max(1, n_bytes // bytes_per_worker)))


def cores() -> int:
    """The cores that this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1


@dataclass(frozen=True)
class ParamsFile:
    """A parsed params.yaml whose outline is known to be right: its sections, its presets, its list of models."""

    path: Path
    content: dict[str, Any]

    @property
    def preset(self) -> str:
        """The preset in force."""
        return str(self.content["preset"])

    @property
    def finetunes(self) -> list[str]:
        """The names of the fine-tuned models."""
        return list(self.content["finetunes"])

    @property
    def models(self) -> list[str]:
        """Every model the pipeline makes."""
        return list(self.content["models"])

    def require_model(self, name: str) -> None:
        """Refuse a name that is not one of the models', with the nearest that is."""
        if name not in self.models:
            raise ConfigurationError(f"{self.path}: there is no model {name!r}{nearest(name, self.models)}")

    def values(self, stage: str, name: str | None = None) -> dict[str, Any]:
        """The stage's settings as plain values: its section, and the preset's differences laid over it."""
        if stage == "finetune":
            if name not in self.finetunes:
                raise ConfigurationError(
                    f"{self.path}: there is no finetunes.{name}{nearest(str(name), self.finetunes)}"
                )
            section = self.content["finetunes"][name]
        else:
            section = self.content[stage]
        return {**(section or {}), **(self.content["presets"][self.preset][stage] or {})}

    def stage(self, stage: str, name: str | None = None) -> Any:
        """The stage's `Params`, strictly checked."""
        module = importlib.import_module(f"pipeline.stages.{stage}")
        where = f"finetunes.{name}" if stage == "finetune" else stage
        return build(module.Params, self.values(stage, name), f"{self.path}: {where}")

    def compute(self) -> Compute:
        """Where the work runs."""
        compute: Compute = build(Compute, dict(self.content["compute"] or {}), f"{self.path}: compute")
        return compute

    def check(self) -> None:
        """Refuse the file if any stage would refuse its part of it under the preset in force."""
        self.compute()
        self._check_starts()
        for stage in STAGES:
            for name in self.finetunes if stage == "finetune" else [None]:
                self.stage(stage, name)

    def _check_starts(self) -> None:
        """Refuse a fine-tuning that starts from no model, or, over however many others, from itself."""
        finetunes = {name: entry or {} for name, entry in self.content["finetunes"].items()}
        for name in finetunes:
            where = f"{self.path}: finetunes.{name}.start"
            way = [name]
            while (start := finetunes[way[-1]].get("start", BASE_MODEL)) != BASE_MODEL:
                if not isinstance(start, str) or start not in finetunes:
                    wrong = f"{self.path}: finetunes.{way[-1]}.start"
                    raise ConfigurationError(f"{wrong}: there is no model {start!r}{nearest(str(start), self.models)}")
                if start in way:
                    raise ConfigurationError(
                        f"{where}: goes round in a circle ({' → '.join([*way, start])}); one of them must start from "
                        f"{BASE_MODEL}"
                    )
                if finetunes[start].get("task") == "classification":
                    raise ConfigurationError(f"{where}: {start} is a classifier, which nothing starts from")
                way.append(start)

    def under(self, preset: str) -> ParamsFile:
        """The same file as if `preset` were in force."""
        return ParamsFile(self.path, {**self.content, "preset": preset})


def load(path: Path = Path(PARAMS_FILE)) -> ParamsFile:
    """Read params.yaml and check its outline; ConfigurationError names the file and the key."""
    return outlined(read(path), path)


def outlined(content: Any, path: Path) -> ParamsFile:
    """What a file holds, once its outline is known to be right."""
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected sections such as `ingest:`, found {type(content).__name__}")
    for key in content:
        if key not in SECTIONS:
            raise ConfigurationError(f"{path}: unknown section {key!r}{nearest(str(key), SECTIONS)}")
    for key in SECTIONS:
        if key not in content:
            raise ConfigurationError(f"{path}: section {key!r} is missing")
    for key in ("compute", *(stage for stage in STAGES if stage != "finetune")):
        _require_keys(content[key], f"{path}: {key}")
    presets = mapping(content, "presets", path)
    if content["preset"] not in list(presets):
        raise ConfigurationError(
            f"{path}: preset is {content['preset']!r}, which `presets` does not have"
            f"{nearest(str(content['preset']), presets)}"
        )
    for name, preset in presets.items():
        _require_keys(preset, f"{path}: presets.{name}")
        unknown = [key for key in preset or {} if key not in STAGES]
        if unknown:
            raise ConfigurationError(
                f"{path}: presets.{name}: unknown stage {unknown[0]!r}{nearest(unknown[0], STAGES)}"
            )
        missing = [stage for stage in STAGES if stage not in (preset or {})]
        if missing:
            raise ConfigurationError(f"{path}: presets.{name} must name every stage; add `{missing[0]}: {{}}`")
        for stage in STAGES:
            _require_keys(preset[stage], f"{path}: presets.{name}.{stage}")
        for stage, key, place in _NOT_IN_A_PRESET:
            if key in (preset[stage] or {}):
                raise ConfigurationError(
                    f"{path}: presets.{name}.{stage}: {key} cannot differ by preset, for dvc.yaml reads {place}; "
                    "set it there"
                )
    finetunes = mapping(content, "finetunes", path)
    for name, finetune in finetunes.items():
        _require_keys(finetune, f"{path}: finetunes.{name}")
    expected = [BASE_MODEL, *finetunes]
    if content["models"] != expected:
        raise ConfigurationError(
            f"{path}: models is {content['models']}, but {BASE_MODEL} and the entries of finetunes are {expected}"
        )
    return ParamsFile(path, content)


def build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """A frozen dataclass from plain values, strictly: no coercion, no unknown key, no missing one."""
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigurationError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    for key, value in _leaves(values, where):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{key}: must be a finite number")
        if key.endswith(".seed") and isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
            raise ConfigurationError(f"{key}: must be 0 to {LARGEST_SEED} (found {value})")
        if isinstance(value, datetime.date):
            raise ConfigurationError(f"{key}: YAML reads this as a date; put it in quotes")
    try:
        # JSON, because a YAML list may stand for a tuple there even in strict mode.
        checked = TypeAdapter(validated(kind, config=_STRICT, frozen=True)).validate_json(json.dumps(values))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            raise ConfigurationError(f"{where}: {key} is missing") from error
        found = f" (found {problem['input']!r})" if key and "input" in problem else ""
        raise ConfigurationError(f"{where}{'.' + key if key else ''}: {said}{found}") from error
    return kind(**{name: getattr(checked, name) for name in known})


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every plain value, by its whole key."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _leaves(below, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _leaves(below, key)
    else:
        yield key, value


def mapping(content: Any, key: str, path: Path) -> dict[str, Any]:
    """A section that holds entries by name, of which there must be one."""
    value = content.get(key)
    if not isinstance(value, dict) or not value:
        raise ConfigurationError(f"{path}: {key} must hold at least one entry")
    return cast(dict[str, Any], value)


def _require_keys(value: Any, where: str) -> None:
    """Refuse what is neither a mapping of keys nor left empty."""
    if value is not None and not isinstance(value, dict):
        raise ConfigurationError(f"{where}: expected keys with values, found {value!r}")


def nearest(word: str, known: Any) -> str:
    """A hint for a typo: the nearest known word, or all of them if they are few."""
    words = [str(w) for w in known] if isinstance(known, (dict, list, tuple)) else []
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(words)}" if words else ""
