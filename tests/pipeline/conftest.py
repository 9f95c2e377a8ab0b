"""A tiny project, made by the real stages: a corpus a child could read, its tokens, models trained on it, exports."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import manifest
from pipeline.params import Compute, build, load

REPOSITORY = Path(__file__).resolve().parents[2]

# What differs from params.yaml, so that every stage takes a second at most.
SMALL: dict[str, dict[str, Any]] = {
    "ingest": {"sources": ["texts"], "texts": "texts"},
    "clean": {"near_duplicates": "keep"},  # the texts are alike on purpose
    "validate": {"minimum_documents": 20, "minimum_examples_per_class": 3},
    "tokenize": {"vocab_size": 300, "validation_fraction": 0.2, "parts_per_shard": 1},
    "pretrain": {
        "context_length": 192,
        "n_layers": 1,
        "n_heads": 2,
        "d_model": 32,
        "dropout": 0.1,
        "steps": 6,
        "batch_size": 2,
        "warmup_steps": 2,
        "precision": "float32",
        "evaluate_every": 3,
        "evaluation_windows": 2,
        "sample_prompt": "The",
    },
    "finetune": {"datasets": [], "epochs": 2, "batch_size": 4, "precision": "float32"},
    "evaluate": {"prompts": ["The cat"], "sample_tokens": 4},
}
ANIMALS = ("cat", "dog", "hen", "cow", "fox", "owl", "bee", "ant")
PLACES = ("barn", "house", "garden", "forest", "meadow")


def write_sources(root: Path) -> None:
    """Forty texts of one sentence, and twelve messages and six instructions in each split; nothing erased yet."""
    (root / "texts").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "data" / "erasures.txt").write_text("")
    for animal in ANIMALS:
        for place in PLACES:
            (root / "texts" / f"{animal}-{place}.txt").write_text(
                f"The {animal} sleeps in the {place}, café 🌍 {place}.\n"
            )
    for kind in ("spam", "instructions"):
        (root / "data" / "samples" / kind).mkdir(parents=True)
    for number, split in enumerate(("train", "validation", "test")):
        messages = [
            {"text": f"{animal} number {number}: {words}", "label": label}
            for animal in ANIMALS[:6]
            for words, label in (("see you soon", "ham"), ("win a prize now", "spam"))
        ]
        instructions = [
            {"instruction": f"Name animal {number}.", "input": f"A {animal}.", "response": animal}
            for animal in ANIMALS[:6]
        ]
        for kind, rows in (("spam", messages), ("instructions", instructions)):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (root / "data" / "samples" / kind / f"{split}.jsonl").write_text(lines)


class Collected:
    """A report that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.numbers: dict[str, float] = {}
        self.kept: list[Path] = []
        self.on_progress: Callable[[int], None] = lambda _done: None

    def note(self, text: str) -> None:
        self.notes.append(text)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.numbers.update(values)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.on_progress(done)

    def keep(self, path: Path, folder: str = "") -> None:
        self.kept.append(path)


@dataclass
class Project:
    """A project's folder, in which stages are run."""

    root: Path
    report: Collected = field(default_factory=Collected)
    compute: Compute = field(default_factory=lambda: Compute("cpu", 1, 3600))

    def run(self, stage: str, name: str | None = None, **changes: Any) -> Collected:
        """Run a stage with the repository's params, the small differences, and `changes`; what it said."""
        module = importlib.import_module(f"pipeline.stages.{stage}")
        values = {**load(REPOSITORY / "params.yaml").values(stage, name), **SMALL.get(stage, {}), **changes}
        params = build(module.Params, values, stage)
        paths = {}
        for key, path in {**module.READS, **module.WRITES}.items():
            filled = path.replace("${name}", str(name)).replace("${start}", getattr(params, "start", ""))
            paths[key] = Path(filled.replace("${ingest.texts}", str(self.root / "texts")))
        offered = {"compute": self.compute, "name": name, "models": ["base", "assistant", "spam"]}
        extra = {k: v for k, v in offered.items() if k in inspect.signature(module.run).parameters}
        self.report = Collected() if self.report.numbers or self.report.notes else self.report
        with contextlib.chdir(self.root):
            module.run(params, **paths, **extra, report=self.report)
        return self.report

    def forget(self) -> None:
        """Have the next runs work everything out anew."""
        shutil.rmtree(self.path("scratch/memo"), ignore_errors=True)

    def path(self, place: str) -> Path:
        """A path in the project's data."""
        return self.root / "data" / place

    def manifest(self, place: str) -> manifest.Manifest:
        """The manifest of an artefact."""
        return manifest.read(self.path(place))

    def digests(self) -> dict[str, str]:
        """Every artefact's digest by place; what is remembered is none."""
        files = [
            f for f in sorted(self.path("").rglob(manifest.MANIFEST)) if self.path("scratch/memo") not in f.parents
        ]
        return {f.parent.relative_to(self.path("")).as_posix(): manifest.read(f.parent).digest for f in files}

    def vouch(self) -> None:
        """Stand in for validate, whose library takes seconds to load: the artefact that says every check passed."""
        inputs = {"documents": self.path("documents/clean"), "examples": self.path("examples/clean")}
        with manifest.commit(self.path("reports/validation"), "validation", inputs=inputs):
            pass


def make_everything(root: Path) -> None:
    """A project with everything up to the exports."""
    project = Project(root)
    write_sources(root)
    project.run("ingest")
    project.run("clean")
    project.vouch()
    project.run("tokenize")
    project.run("pretrain")
    for name in ("assistant", "spam"):
        project.run("finetune", name)
    for name in ("base", "assistant", "spam"):
        project.run("evaluate", name)
        project.run("export", name)
    project.forget()


@pytest.fixture
def made(once: Callable[..., Path], tmp_path: Path) -> Project:
    """A project in which every stage but register has run; a copy of one that is made once."""
    return Project(Path(shutil.copytree(once("made", make_everything), tmp_path / "project")))


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A project with its sources, in which nothing has run."""
    write_sources(tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def smollm_like() -> Callable[[Path], Path]:
    """Writes a tokenizer.json made as SmolLM2's was: special tokens first, and no token for bytes it never met."""
    tokenizers = pytest.importorskip("tokenizers")

    def write(folder: Path) -> Path:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, byte_level])
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        special = ["<|endoftext|>", "<|im_start|>"]
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
        texts = ["the cat sat on the mat, the cat's mat: 1234567890\n\nthe cats, a red bat and a good dog"] * 9
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder / "tokenizer.json"

    return write


@pytest.fixture
def on_a_ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Compute], Compute]]:
    """Where to compute, moved to a Ray cluster of two nodes on this machine; skips where ray is not installed."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pytest.importorskip("ray", reason="the extra homegrown[ray] is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield lambda compute: replace(compute, engine="ray", address=cluster.address, workers=2)
    finally:
        cluster.shutdown()


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code or a module in a process of its own, in a folder, with our packages on its path."""

    def run(*arguments: str, cwd: Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HOMEGROWN_", "MLFLOW_", "PYTEST_"))}
        env |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


def make_store(folder: Path) -> None:
    """An empty MLflow database; making the tables takes seconds, copying the file does not."""
    import mlflow

    mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()


@pytest.fixture
def mlflow_store(once: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of its own for one test, in the folder that the test then works in."""
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    store = shutil.copy(once("store", make_store) / "mlflow.db", folder)
    # By its whole path: within one process MLflow keeps a connection for each URI, whatever folder it meant then.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    return Path(store)


@pytest.fixture
def sha256_of() -> Callable[[Path], dict[str, str]]:
    """Every file of a folder with its sha256."""

    def digests(folder: Path) -> dict[str, str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return digests
