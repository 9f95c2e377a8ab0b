"""Goes in: folders of text. Comes out: benchmarks/results/memory.json, the peak memory of each data stage, and of ten
times the corpus.

Once documents of about 5 kB, a file each, and once records of some 50 words, all in one file of JSON lines: memory may
grow with neither. The larger corpora are of 300 MB and of a million records. GPT-2's vocabulary is given; one worker.

    python benchmarks/memory.py FOLDER [FOLDER …] --ranks tokenizer.tiktoken
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.incremental import STAGE, STAGES, lay_out, pieces  # noqa: E402
from benchmarks.record_run import RESULTS, git, hardware  # noqa: E402

DOCUMENT_MEGABYTES = (30, 300)
SHORT_RECORDS = (100_000, 1_000_000)
PEAK = """
print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) // 1000)
"""


def main() -> None:
    """Run the stages on all four corpora, and write the peaks down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--ranks", type=Path, required=True)
    asked = parser.parse_args()

    def documents(project: Path, megabytes: int) -> None:
        lay_out(project, asked.folders, megabytes * 1_000_000)

    def short_records(project: Path, count: int) -> None:
        lay_out(project, asked.folders, 0)
        shutil.rmtree(project / "texts")
        (project / "texts").mkdir()
        words = sorted(
            {word for text, _ in zip(pieces(asked.folders), range(2000), strict=False) for word in text.split()}
        )
        chance = random.Random(0)
        with (project / "texts" / "all.jsonl").open("w", encoding="utf-8") as lines:
            for _ in range(count):
                lines.write(json.dumps({"text": " ".join(chance.choices(words, k=50)) + "."}) + "\n")

    record: dict[str, object] = {"commit": git("rev-parse", "HEAD"), "hardware": hardware()}
    for name, make, sizes in (
        ("documents, megabytes", documents, DOCUMENT_MEGABYTES),
        ("short records", short_records, SHORT_RECORDS),
    ):
        small, large = (peaks(make, size, str(asked.ranks.resolve())) for size in sizes)
        record[name] = {
            "peak_megabytes": {str(size): peak for size, peak in zip(sizes, (small, large), strict=True)},
            "ten_times_as_much_takes": {stage: round(large[stage] / small[stage], 3) for stage in STAGES},
        }
        print(name, json.dumps(record[name], indent=2), flush=True)
    (RESULTS / "memory.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def peaks(make: Callable[[Path, int], None], size: int, ranks: str) -> dict[str, int]:
    """The megabytes that each stage takes at most for a corpus of this size, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="homegrown-memory-") as folder:
        make(Path(folder), size)
        found = {}
        for stage in STAGES:
            done = subprocess.run(
                [sys.executable, "-c", STAGE + PEAK, stage, ranks, str(ROOT / "params.yaml"), "1"],
                cwd=folder,
                env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(done.stderr)
            found[stage] = int(done.stdout.split()[-1])
        return found


if __name__ == "__main__":
    main()
