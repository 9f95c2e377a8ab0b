"""Goes in: how many tokens. Comes out: benchmarks/results/reading-shards.json, how fast shards are written and read.

Batches as a training step takes them, inputs and targets in int64, are drawn from our Parquet shards, by the same code
from a raw memory-mapped file of tokens, and from that file by the loader that nanoGPT made usual: the file is mapped
anew for each batch, and each window of a random place is cast and stacked. Random tokens, warm in the page cache and
mapped before, one thread; rounds alternate in order and in windows, medians are kept.
Opening is timed in fresh processes that have loaded all they need.

    python benchmarks/reading_shards.py --tokens 500_000_000
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.record_run import git, hardware  # noqa: E402
from model.batches import TokenWindows  # noqa: E402
from pipeline.shards import SplitWriter, TokenArray, map_split, write_shards  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SHAPES = ((8, 256), (12, 1024))
"""Windows a batch and tokens a window: the default run's, and nanoGPT's for its GPT-2."""
VOCAB_SIZE, TOKENS_PER_SHARD, DOCUMENT_TOKENS = 50_257, 1 << 24, 1 << 10
SECONDS = 1.0
COMPARED = (
    ("shards", "raw file, nanoGPT's loader"),
    ("shards", "raw file, the same code"),
    ("one shard", "raw file, as much"),
)
OPENING = """
import sys, time
from pathlib import Path
from pipeline.shards import map_split
import numpy as np
folder, n_tokens = Path(sys.argv[1]), int(sys.argv[2])
counts = [min(1 << 24, n_tokens - first) for first in range(0, n_tokens, 1 << 24)]
began = time.perf_counter()
tokens = map_split(folder, "train", {"vocab_size": 50_257, "shards": {"train": counts}})
tokens[0:1024], tokens[n_tokens - 1024 : n_tokens]
print(time.perf_counter() - began)
"""


def main() -> None:
    """Write and read by turns, and write the medians down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=500_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; a folder in memory shows the pace without a disk")
    parser.add_argument("--name", default="reading-shards", help="of the record, for a machine beside the first")
    asked = parser.parse_args()
    asked.tokens -= asked.tokens % (10 * DOCUMENT_TOKENS)  # whole documents, in a tenth as well
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="homegrown-shards-", dir=asked.folder) as name:
        folder = Path(name)
        tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, asked.tokens, np.uint16)
        write(folder / "few", tokens[: asked.tokens // 10])
        one = tokens[:TOKENS_PER_SHARD]
        write(folder / "one", one)
        raw = folder / "tokens.bin"
        writing: dict[str, list[dict[str, float]]] = {"shards": [], "raw file": []}
        for _ in range(asked.rounds):
            writing["shards"].append(write(folder / "all", tokens))
            writing["raw file"].append(taken(lambda: tokens.tofile(raw)))
        shards = map_split(folder / "all", "train", facts_of(len(tokens)))
        one_shard = map_split(folder / "one", "train", facts_of(len(one)))
        one_file = np.asarray(np.memmap(raw, np.uint16, "r"))
        # Every token of both: so each of the two maps has met all its pages, and neither pays for that below.
        step = 1 << 20
        assert all(
            np.array_equal(shards[at : at + step], one_file[at : at + step]) for at in range(0, len(tokens), step)
        )
        pace: dict[str, dict[str, list[float]]] = {}
        for turn in range(asked.rounds):
            for rows, length in SHAPES:
                drawing: dict[str, Callable[[int], object]] = {
                    "shards": TokenWindows(shards, length, rows, 2 * turn),
                    "raw file, the same code": TokenWindows(one_file, length, rows, 2 * turn + 1),
                    "one shard": TokenWindows(one_shard, length, rows, 2 * turn),
                    "raw file, as much": TokenWindows(one_file[: len(one_shard)], length, rows, 2 * turn + 1),
                    "raw file, nanoGPT's loader": lambda _, rows=rows, length=length: usual(raw, rows, length),
                }
                for who in sorted(drawing, reverse=turn % 2 == 1):
                    draw = drawing[who]
                    million = tokens_per_second(draw, rows * length) / 1e6
                    pace.setdefault(f"{rows} x {length}", {}).setdefault(who, []).append(million)
        opening = {
            f"{n:,} tokens": [opened(folder / which, n) for _ in range(asked.rounds)]
            for which, n in (("few", asked.tokens // 10), ("all", asked.tokens))
        }
    medians = {shape: {who: statistics.median(runs) for who, runs in by.items()} for shape, by in pace.items()}
    record = {
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "tokens": asked.tokens,
        "million_tokens_per_second": {
            shape: {who: round(value, 1) for who, value in by.items()} for shape, by in medians.items()
        },
        "ratios": {
            shape: {f"{ours} / {other}": round(by[ours] / by[other], 2) for ours, other in COMPARED}
            for shape, by in medians.items()
        },
        "opening_seconds": {size: round(statistics.median(runs), 4) for size, runs in opening.items()},
        "writing_gb_per_second": {
            f"{what}, {clock}": round(statistics.median(asked.tokens * 2 / 1e9 / run[clock] for run in runs), 2)
            for what, runs in writing.items()
            for clock in ("wall", "cpu")
        },
        "written_to": asked.folder or "disk",
        "runs": {"million_tokens_per_second": pace, "opening_seconds": opening, "writing_seconds": writing},
    }
    (RESULTS / f"{asked.name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: record[key] for key in list(record)[3:-1]}, indent=2))


def write(folder: Path, tokens: TokenArray) -> dict[str, float]:
    """What it takes to write these tokens as documents, a shard at a time as tokenize does."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()

    def all_of_them() -> None:
        writer = SplitWriter(folder, "train")
        for first in range(0, len(tokens), TOKENS_PER_SHARD):
            own = tokens[first : first + TOKENS_PER_SHARD]
            n_documents = len(own) // DOCUMENT_TOKENS
            writer.add(
                write_shards(folder / "of", own),
                [f"{number:08}" for number in range(n_documents)],
                ["text"] * n_documents,
                np.full(n_documents, DOCUMENT_TOKENS),
            )
        writer.close()

    return taken(all_of_them)


def facts_of(n_tokens: int) -> dict[str, object]:
    """What the manifest would say of so many."""
    counts = [min(TOKENS_PER_SHARD, n_tokens - first) for first in range(0, n_tokens, TOKENS_PER_SHARD)]
    return {"vocab_size": VOCAB_SIZE, "shards": {"train": counts}}


def taken(work: Callable[[], None]) -> dict[str, float]:
    """Seconds by the wall clock and of the CPU."""
    began, before = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - before}


def usual(file: Path, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch in the manner of nanoGPT's train.py."""
    data = np.memmap(file, np.uint16, "r")
    starts = torch.randint(len(data) - length, (rows,))
    ids_BT = torch.stack([torch.from_numpy(data[at : at + length].astype(np.int64)) for at in starts])
    targets_BT = torch.stack([torch.from_numpy(data[at + 1 : at + 1 + length].astype(np.int64)) for at in starts])
    return ids_BT, targets_BT


def tokens_per_second(draw: Callable[[int], object], tokens_per_batch: int) -> float:
    """The pace of drawing one batch after the other for a while."""
    draw(0)
    batches, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        for _ in range(50):
            batches += 1
            draw(batches)
    return batches * tokens_per_batch / elapsed


def opened(folder: Path, n_tokens: int) -> float:
    """Seconds from a folder to its first and last tokens, in a process of its own."""
    command = [sys.executable, "-c", OPENING, str(folder), str(n_tokens)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
