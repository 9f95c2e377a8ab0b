"""Goes in: a name and the arguments of `homegrown run`. Comes out: benchmarks/results/NAME.json, the README's witness.

It clones the commit that is checked out into a temporary folder, so that nothing of an earlier run helps, runs the
command there twice (everything, then everything cached), and writes down what came out, on what hardware:

    python benchmarks/record_run.py default-run
    python benchmarks/record_run.py published --published FOLDER --preset published

With --published the folder is what the run finds at data/published; the record says its digest.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main(name: str, arguments: list[str]) -> None:
    """Record one run of the pipeline, from nothing, and the cached run after it."""
    published = None
    if arguments[:1] == ["--published"]:
        published, arguments = Path(arguments[1]).resolve(), arguments[2:]
        sys.path.insert(0, str(ROOT))
        from pipeline.published import digest_of_model

        arguments = [*arguments, "--set", f"pretrain.init_from_sha256={digest_of_model(published)}"]
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout.strip():
        sys.exit("commit first: a figure belongs to a commit")
    with tempfile.TemporaryDirectory(prefix="homegrown-record-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if published:
            (clone / "data" / "published").symlink_to(published)
        commit = git("rev-parse", "HEAD", folder=clone)
        subprocess.run([sys.executable, "-m", "flows.databases", clone], cwd=clone, check=True)  # as `make setup` does
        first = run(clone, arguments)
        again = [run(clone, []) for _ in range(5)]
        metrics = {
            path.parent.name: json.loads(path.read_text())
            for path in sorted(clone.glob("data/evaluations/*/metrics.json"))
        }
        tokens = json.loads((clone / "data/tokens/manifest.json").read_text())["facts"]
        compressed = xz_bits_per_byte(clone, tokens)
        samples = json.loads((clone / "data/evaluations/base/samples.json").read_text())
        subprocess.run([sys.executable, "-m", "flows.cli", "ui", "--stop"], cwd=clone, capture_output=True)
    record = {
        "command": " ".join(["homegrown run", *arguments]),
        "commit": commit,
        "hardware": hardware(),
        "versions": {p: version(p) for p in ("torch", "prefect", "dvc", "mlflow", "great-expectations", "tiktoken")},
        "seconds": first["wall_seconds"],
        "seconds_by_stage": {stage["stage"]: stage["seconds"] for stage in first["report"]["stages"]},
        "cached_seconds": sorted(one["wall_seconds"] for one in again),
        "metrics": metrics,
        "tokens": {k: tokens[k] for k in ("vocab_size", "n_tokens", "n_bytes", "n_documents")},
        "xz_bits_per_byte": compressed,
        "samples": samples,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{RESULTS / name}.json: {record['seconds']:.0f} s, cached {record['cached_seconds'][2]:.1f} s")


def run(clone: Path, arguments: list[str]) -> dict[str, Any]:
    """One run of the command: its wall-clock seconds, as a whole process, and what it reported."""
    command = [sys.executable, "-m", "flows.cli", "run", "--json", *arguments]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    begun = time.monotonic()
    done = subprocess.run(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"wall_seconds": round(time.monotonic() - begun, 2), "report": json.loads(done.stdout)}


def xz_bits_per_byte(clone: Path, tokens: dict[str, Any]) -> dict[str, float]:
    """What xz -9 makes of the validation text, alone and after the training text: the mark a model should beat."""
    import lzma

    sys.path.insert(0, str(clone))
    from pipeline.documents import Document, read_records
    from pipeline.stages.tokenize import split_of

    fraction = json.loads((clone / "data/tokens/manifest.json").read_text())["params"]["validation_fraction"]
    texts: dict[str, list[bytes]] = {"train": [], "validation": []}
    for document in read_records(clone / "data/documents/clean/documents.parquet", Document):
        texts[split_of(document.text, fraction)].append(document.text.encode())
    train, validation = (b"\n".join(texts[split]) for split in ("train", "validation"))
    n_bytes = tokens["n_bytes"]["validation"]

    def size(text: bytes) -> int:
        return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))

    return {
        "alone": round(8 * size(validation) / n_bytes, 4),
        "after_training_text": round(8 * (size(train + b"\n" + validation) - size(train)) / n_bytes, 4),
    }


def hardware() -> dict[str, Any]:
    """The machine, as far as it can be told."""
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def git(*arguments: str, folder: Path = ROOT) -> str:
    """Output of a git command in a checkout."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
