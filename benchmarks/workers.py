"""Goes in: folders of text. Comes out: benchmarks/results/workers.json, what more workers give to clean and to PDFs.

The text is laid out as benchmarks/incremental.py does, for clean as text, for ingest as PDFs. Each stage runs with one
worker, two, and so on to the number of cores, by turns, each time in a process of its own and with nothing remembered;
timed without the start of Python. What comes out must be equal byte for byte. For tokenize see
benchmarks/tokenizing.py.

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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.incremental import lay_out, run_all  # noqa: E402
from benchmarks.record_run import git, hardware  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "workers.json"


def main() -> None:
    """Measure each stage with each number of workers and write the medians down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    machine = hardware()
    record: dict[str, Any] = {"commit": git("rev-parse", "HEAD"), "hardware": machine}
    with tempfile.TemporaryDirectory(prefix="homegrown-workers-") as folder:
        for stage, pages, megabytes in (("clean", False, asked.megabytes), ("ingest", True, asked.megabytes // 2)):
            project = Path(folder) / stage
            project.mkdir()
            n_documents, n_bytes = lay_out(project, asked.folders, megabytes * 1_000_000, pages=pages)
            if pages:
                n_documents = keep_pdfs(project)
            else:
                run_all(project, "", ["ingest"])
            seconds = measured(project, stage, int(machine["cores"]), asked.repeats)
            medians = {count: statistics.median(took) for count, took in seconds.items()}
            record[f"{stage}, PDFs" if pages else stage] = {
                "documents": n_documents,
                **({} if pages else {"bytes": n_bytes}),
                "wall_seconds": {count: [round(one, 3) for one in took] for count, took in seconds.items()},
                "medians": {count: round(median, 3) for count, median in medians.items()},
                "times_one_worker": {count: round(medians[1] / median, 3) for count, median in medians.items()},
                "byte_identical": True,
            }
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


def keep_pdfs(project: Path) -> int:
    """Take the other files away; how many are left."""
    files = list((project / "texts").iterdir())
    for file in files:
        if file.suffix != ".pdf":
            file.unlink()
    return sum(file.suffix == ".pdf" for file in files)


def measured(project: Path, stage: str, most: int, repeats: int) -> dict[int, list[float]]:
    """The wall seconds of a stage with each number of workers."""
    seconds: dict[int, list[float]] = {count: [] for count in range(1, most + 1)}
    outcomes = set()
    for _ in range(repeats):
        for count, took in seconds.items():
            shutil.rmtree(project / "data" / "scratch", ignore_errors=True)
            took.append(run_all(project, "", [stage], count)[stage]["wall_seconds"])
            manifests = sorted((project / "data").glob("*/*/manifest.json"))
            outcomes.add(b"".join(path.read_bytes() for path in manifests))
            print(f"{stage}, {count} workers: {took[-1]:.2f} s", flush=True)
    if len(outcomes) != 1:
        sys.exit(f"what {stage} makes depends on the number of workers")
    return seconds


if __name__ == "__main__":
    main()
