"""Goes in: folders of text. Comes out: benchmarks/results/workers.json, what more workers give to clean.

The text is laid out as benchmarks/incremental.py does. Clean runs with one worker, two, and so on to the number of
cores, by turns, each time in a process of its own and with nothing remembered; timed without the start of Python.
What comes out must be equal byte for byte. With more than one, this process reads, puts in order and writes, and the
workers apply the rules. For tokenize see benchmarks/tokenizing.py.

    python benchmarks/workers.py FOLDER [FOLDER …] --megabytes 60
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.incremental import lay_out, run_all  # noqa: E402
from benchmarks.record_run import git, hardware  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "workers.json"


def main() -> None:
    """Measure each number of workers and write the medians down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    machine = hardware()
    with tempfile.TemporaryDirectory(prefix="homegrown-workers-") as folder:
        project = Path(folder)
        n_documents, n_bytes = lay_out(project, asked.folders, asked.megabytes * 1_000_000)
        run_all(project, "", ["ingest"])
        seconds: dict[int, list[float]] = {count: [] for count in range(1, int(machine["cores"]) + 1)}
        outcomes = set()
        for _ in range(asked.repeats):
            for count, took in seconds.items():
                shutil.rmtree(project / "data" / "scratch", ignore_errors=True)
                took.append(run_all(project, "", ["clean"], count)["clean"]["wall_seconds"])
                manifests = sorted((project / "data").glob("*/clean/manifest.json"))
                outcomes.add(b"".join(path.read_bytes() for path in manifests))
                print(f"{count} workers: {took[-1]:.2f} s", flush=True)
    if len(outcomes) != 1:
        sys.exit("what comes out depends on the number of workers")
    medians = {count: statistics.median(took) for count, took in seconds.items()}
    record = {
        "documents": n_documents,
        "bytes": n_bytes,
        "wall_seconds": {count: [round(one, 3) for one in took] for count, took in seconds.items()},
        "medians": {count: round(median, 3) for count, median in medians.items()},
        "times_one_worker": {count: round(medians[1] / median, 3) for count, median in medians.items()},
        "byte_identical": True,
        "commit": git("rev-parse", "HEAD"),
        "hardware": machine,
    }
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
