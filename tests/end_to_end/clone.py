"""A checkout of the project with a corpus and a model so small that the whole pipeline takes a minute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.set_params import set_values

REPOSITORY = Path(__file__).resolve().parents[2]
# Training examples kept of each file in data/samples: enough to run every stage, too few to learn from.
SAMPLE_LINES = 120

TINY = {
    "ingest.sources": "[python-topics, texts]",
    "validate.minimum_documents": "10",
    "validate.minimum_examples_per_class": "5",
    "tokenize.vocab_size": "512",
    "tokenize.validation_fraction": "0.2",
    "pretrain.n_layers": "2",
    "pretrain.n_heads": "2",
    "pretrain.d_model": "32",
    "pretrain.n_kv_heads": "null",
    "pretrain.d_ff": "null",
    "pretrain.steps": "12",
    "pretrain.batch_size": "2",
    "pretrain.warmup_steps": "2",
    "pretrain.evaluate_every": "6",
    "pretrain.evaluation_windows": "2",
    "finetunes.assistant.epochs": "1",
    "finetunes.spam.epochs": "1",
    "evaluate.sample_tokens": "8",
    "compute.threads": "1",
}


@dataclass(frozen=True)
class Clone:
    """A checkout of the project somewhere else, as a user would have it."""

    root: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone with this environment's programs first on the path."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**environment), capture_output=True, text=True, timeout=540
        )
        if check and done.returncode:
            pytest.fail(
                f"{' '.join(command)} exited with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def homegrown(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the `homegrown` command."""
        return self.run(sys.executable, "-m", "flows.cli", *arguments, check=check, **environment)

    def environment(self, **extra: str) -> dict[str, str]:
        """The environment for programs of the clone: nothing of an outer run, no tracking server but its own."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "HOMEGROWN_", "DVC_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
        return {**clean, "PATH": path, "PYTHONPATH": str(self.root), **extra}

    def set(self, **values: str) -> None:
        """Set values of params.yaml; `__` stands for the dot."""
        set_values(self.root / "params.yaml", {key.replace("__", "."): value for key, value in values.items()})

    def json(self, path: str) -> Any:
        """A JSON file of the clone."""
        return json.loads((self.root / path).read_text(encoding="utf-8"))

    def wait_for_delivery(self) -> None:
        """Wait until everything recorded is in MLflow."""
        start = "from pipeline.tracking import spool; spool.start_delivery()"
        # The delivery that was at work may have left without having delivered everything, so once more is asked for.
        for _ in range(2):
            self.run(sys.executable, "-c", start)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if not list((self.root / ".homegrown" / "spool").glob("*.jsonl")):
                    return
                time.sleep(0.1)
        raise AssertionError("not everything recorded is in MLflow")

    def stop_servers(self) -> None:
        """End the servers that commands in this clone have started."""
        self.homegrown("ui", "--stop", check=False)


def forget_model(params: Path, name: str) -> None:
    """Take a fine-tuned model out of params.yaml, as a user would."""
    yaml = YAML()
    document = yaml.load(params)
    del document["finetunes"][name]
    document["models"].remove(name)
    yaml.dump(document, params)


def clone_project(root: Path) -> Clone:
    """A git checkout of the working tree in `root`, with the tiny settings committed."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file() and name != "dvc.lock":  # of a run in this very checkout
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
    for file in (root / "data" / "samples").glob("*/*.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:: max(1, len(lines) // SAMPLE_LINES)][:SAMPLE_LINES]), encoding="utf-8")
    forget_model(root / "params.yaml", "sentiment")  # the spam model's stages do all that its stages would
    clone = Clone(root)
    clone.set(**{key.replace(".", "__"): value for key, value in TINY.items()})
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "the project"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    return clone
