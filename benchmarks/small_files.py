"""Goes in: a count of files. Comes out: benchmarks/results/small-files.json, the speed of ingesting them as a tree.

    python -m benchmarks.small_files --files 50000 --runs 5

Beside it stands the same text as one file of JSON lines. Both are the whole stage `ingest`, to the committed Parquet,
in a fresh process each, in turns; medians are kept. The promise is that the tree is at least half as fast.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record_run import RESULTS, git, hardware

WORDS = [word for word in (__doc__ or "").split() if word.isalpha()] + ["café", "naïve", "data", "model", "of", "a"]
STAGE = """
import shutil, sys, time
from pathlib import Path
from pipeline.params import Compute, build
from pipeline.stages import ingest
from pipeline.training_plan import peak_resident_bytes
class Quiet:
    def note(self, text): pass
    def metrics(self, values, step=None): pass
    def progress(self, *_, **__): pass
    def keep(self, *_, **__): pass
texts, samples = sys.argv[1], Path(sys.argv[2])
params = build(ingest.Params, {"sources": ["texts"], "texts": texts, "texts_licence": "CC0-1.0"}, "benchmark")
out = Path("out")
shutil.rmtree("data", ignore_errors=True)  # what the run before remembered
start, before = time.perf_counter(), time.process_time()
ingest.run(params, texts=Path(texts), samples=samples, erasures=samples.parent / "erasures.txt", documents=out / "d",
           examples=out / "e", quarantine=out / "q", compute=Compute("cpu", 1, 30), report=Quiet())
print(time.perf_counter() - start, time.process_time() - before, peak_resident_bytes() // 1024)
"""


def write(folder: Path, files: int, seed: int = 1) -> int:
    """The same texts twice, as a tree of a thousand files a folder and as one JSONL; their bytes."""
    chance = random.Random(seed)
    size = 0
    with (folder / "all.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(files):
            text = " ".join(chance.choices(WORDS, k=chance.randint(20, 500)))
            size += len(text.encode())
            place = folder / "tree" / f"{number // 1000:03}" / f"{number:06}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
            lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    took: dict[str, list[tuple[float, float, float]]] = {"all.jsonl": [], "tree": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, chosen.files)
        for _ in range(chosen.runs):
            for place, figures in took.items():
                command = [sys.executable, "-c", STAGE, str(folder / place), str(root / "data" / "samples")]
                done = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
                )
                wall, cpu, peak = map(float, done.stdout.split())
                figures.append((wall, cpu, peak))
    medians = {place: [statistics.median(column) for column in zip(*rows, strict=True)] for place, rows in took.items()}
    speed = {
        place: {
            "wall_s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            "mb_per_s": round(size / 1e6 / wall, 1),
            "peak_mib": round(peak_kib / 1024),
        }
        for place, (wall, cpu, peak_kib) in medians.items()
    }
    ratios = {
        clock: round(medians["all.jsonl"][at] / medians["tree"][at], 2) for at, clock in enumerate(("wall", "cpu"))
    }
    record = {
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "texts": chosen.files,
        "megabytes": round(size / 1e6, 1),
        "medians": speed,
        "the_tree_has_of_the_speed_of_one_file": ratios,
        "runs": took,
    }
    (RESULTS / "small-files.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in record.items() if key != "runs"}, indent=2))
    return 0 if ratios["wall"] >= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
