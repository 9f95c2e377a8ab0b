"""Goes in: a count of files. Comes out: the speed of ingesting them as a tree, and as one file of JSON lines.

    python -m benchmarks.small_files --files 50000 --runs 5

Both are the whole stage `ingest`, to the committed Parquet, in a fresh process each, in turns; medians are printed.
The promise is that the tree is at least half as fast.
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

WORDS = [word for word in (__doc__ or "").split() if word.isalpha()] + ["café", "naïve", "data", "model", "of", "a"]
STAGE = """
import sys, time
from pathlib import Path
from pipeline.params import build
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
start, before = time.perf_counter(), time.process_time()
ingest.run(params, texts=Path(texts), samples=samples, erasures=samples.parent / "erasures.txt", documents=out / "d",
           examples=out / "e", quarantine=out / "q", report=Quiet())
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
    print(f"{chosen.files:,} texts, {size / 1e6:.1f} MB, median of {chosen.runs}")
    for place, (wall, cpu, peak_kib) in medians.items():
        print(
            f"{place:10} {wall:6.2f} s wall, {cpu:6.2f} s CPU, {size / 1e6 / wall:6.1f} MB/s, {peak_kib / 1024:.0f} MiB"
        )
    ratio = medians["all.jsonl"][0] / medians["tree"][0]
    of_cpu = medians["all.jsonl"][1] / medians["tree"][1]
    print(f"the tree has {ratio:.2f} of the speed of the one file (by CPU: {of_cpu:.2f})")
    return 0 if ratio >= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
