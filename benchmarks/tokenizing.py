"""Goes in: a folder of public texts. Comes out: benchmarks/results/tokenizing.json, how fast text becomes token shards.

Every measurement is a process of its own on cold text, so that no cache of a library has met it, held to one core or
two. Ours is the whole stage: read Parquet, check its digest, split, encode, write shards, index and manifest. tiktoken
is `encode_ordinary_batch` alone, text and lists in memory; `datasets.map` calls just that and writes its Arrow file;
datatrove reads the same Parquet and writes its own tokens. GPT-2's vocabulary for all.

    python benchmarks/tokenizing.py FOLDER      # needs the extra [bench]; FOLDER as ../shared/data
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.record_run import git, hardware  # noqa: E402
from pipeline import encodings, manifest  # noqa: E402
from pipeline.documents import Document, part_files, write_table  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "tokenizing.json"
SMALL_BYTES, REPETITIONS = 32_000_000, 5
TIMES = {"small": 1, "large": 10, "huge": 120}
DOCUMENT_BYTES = 6_000
TWO = "large, ours, twice at once"
RANKS, TOKENIZER = "gpt2.tiktoken", "tokenizer.json"
PARTS = ("english-novels-100", "docs-peps", "wikitext2")


def main(texts: Path) -> None:
    """Make the texts, measure everyone on them by turns, and write down the medians."""
    with tempfile.TemporaryDirectory(prefix="homegrown-tokenizing-") as name:
        folder = Path(name)
        prepare(texts, folder)
        runs: dict[str, list[dict[str, float]]] = {}
        for repetition in range(REPETITIONS):
            for method in METHODS:
                measure(runs, folder, "small", method, 1)
            for method in 2 * ("ours", "tiktoken"):  # less than a second each, so chance weighs more
                measure(runs, folder, "small", method, 1)
            measure(runs, folder, "large", "tiktoken", 1)
            for size in ("large", "huge"):
                for cores in (1, 2):
                    measure(runs, folder, size, "ours", cores)
            measure_two(runs, folder)
            print(f"{repetition + 1} of {REPETITIONS} done", flush=True)
            record(runs)


def record(runs: dict[str, list[dict[str, float]]]) -> None:
    """Write down every run, the medians, and what they are to each other, by wall clock and by CPU-seconds."""
    medians = {
        key: {name: statistics.median(run[name] for run in many) for name in many[0]} for key, many in runs.items()
    }
    wall = {key: median["mb_per_s"] for key, median in medians.items()}
    cpu = {key: 1 / median["cpu_s"] for key, median in medians.items()}
    ratios = {
        f"{name} / {other}, {clock}": speed[f"small, {mine}, 1"] / speed[f"small, {other}, 1"]
        for clock, speed in (("wall", wall), ("cpu", cpu))
        for name, mine in (("ours", "ours"), ("ours without gigatoken", "fallback"))
        for other in ("tiktoken", "datasets", "datatrove")
    }
    ratios |= {
        # On a small text, reading GPT-2's vocabulary is half of ours.
        "ours, large / tiktoken, large, wall": wall["large, ours, 1"] / wall["large, tiktoken, 1"],
        "ours, large / tiktoken, large, cpu": cpu["large, ours, 1"] / cpu["large, tiktoken, 1"],
        "two cores / one, wall": wall["large, ours, 2"] / wall["large, ours, 1"],
        "two cores / one, huge, wall": wall["huge, ours, 2"] / wall["huge, ours, 1"],
        # What the machine itself gives: its cores may share an execution unit, a cache and the way to memory.
        "two runs at once / one, wall": wall[TWO] / wall["large, ours, 1"],
        f"peak memory, {TIMES['large']} times the text": medians["large, ours, 1"]["peak_mb"]
        / medians["small, ours, 1"]["peak_mb"],
    }
    packages = ("tiktoken", "gigatoken", "tokenizers", "datasets", "datatrove", "pyarrow")
    content = {
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "versions": {package: version(package) for package in packages},
        "text": f"{', '.join(PARTS)}, {SMALL_BYTES / 1e6:.0f} MB; variants have a share of their words reversed",
        "ratios": ratios,
        "medians": medians,
        "runs": runs,
    }
    RESULT.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(ratios, indent=2), flush=True)


def prepare(texts: Path, folder: Path) -> None:
    """Artefacts of documents, each some times as large as the smallest, and the vocabulary in both its forms."""
    from pipeline.exporters.huggingface import write_tokenizer

    source = "\n\n".join(
        file.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
        for part in PARTS
        for file in sorted((texts / part).rglob("*"))
        if file.suffix in (".txt", ".rst", ".md")
    )
    for number, (name, times) in enumerate(TIMES.items()):
        with manifest.commit(folder / name / "documents", "documents") as draft:
            rows = write_table(
                documents(source, 1000 * number, SMALL_BYTES * times), Document, draft.path / "documents.parquet"
            )
            draft.facts["documents"] = rows
    with manifest.commit(folder / "validation", "validation"):
        pass
    ranks = encodings.read_ranks(texts / "gpt2-tokenizer" / "vocab.bpe")
    encodings.write_ranks(ranks, folder / RANKS)
    write_tokenizer(ranks, folder, context_length=1024)


def documents(source: str, variant: int, size: int) -> Iterator[Document]:
    """Variants of the text, cut into documents, until `size` bytes are reached."""
    left = size
    while True:
        words = source.split(" ")
        step = 7 + variant % 8
        words[variant % step :: step] = [word[::-1] for word in words[variant % step :: step]]
        text = " ".join(words)
        for start in range(0, len(text), DOCUMENT_BYTES):
            piece = text[start : start + DOCUMENT_BYTES]
            left -= len(piece.encode())
            if left < 0:
                return
            yield Document.of(source="texts", name=f"{variant}-{start}", licence="various", text=piece)
        variant += 1


def measure(runs: dict[str, list[dict[str, float]]], folder: Path, size: str, method: str, cores: int) -> None:
    """Run one method in a process of its own, held to some cores, and add what it took."""
    os.sync()  # what another run wrote is none of this one's work
    found = ended(start(folder, size, method, sorted(os.sched_getaffinity(0))[:cores]))
    runs.setdefault(f"{size}, {method}, {cores}", []).append(found)
    print(f"{size} {method} {cores}: {found['mb_per_s']:.1f} MB/s", flush=True)


def measure_two(runs: dict[str, list[dict[str, float]]], folder: Path) -> None:
    """Run ours twice at once, a core each, and add how much text both got done in a second."""
    os.sync()
    both = [ended(one) for one in [start(folder, "large", "ours", [c]) for c in sorted(os.sched_getaffinity(0))[:2]]]
    found = {name: sum(run[name] for run in both) for name in ("cpu_s", "mb_per_s", "peak_mb")}
    runs.setdefault(TWO, []).append(found)
    print(f"{TWO}: {found['mb_per_s']:.1f} MB/s", flush=True)


def start(folder: Path, size: str, method: str, cores: list[int]) -> subprocess.Popen[str]:
    """A process that measures one method, on these cores alone."""
    command = [sys.executable, __file__, "--one", method, str(folder), size, str(len(cores))]
    environment = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    held = ["taskset", "-c", ",".join(map(str, cores))]
    return subprocess.Popen(
        [*held, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def ended(process: subprocess.Popen[str]) -> dict[str, float]:
    """What such a process found."""
    said, _ = process.communicate()
    assert process.returncode == 0, process.args
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def one(method: str, folder: Path, size: str, cores: int) -> None:
    """Measure a method in this process; imports and the loading of inputs into memory are not counted."""
    work = METHODS[method](folder, folder / size / "documents", cores)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n_bytes = SMALL_BYTES * TIMES[size]
    # ru_maxrss would be the peak of the process that started this one.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "mb_per_s": n_bytes / 1e6 / wall, "peak_mb": peak}))


def ours(folder: Path, source: Path, cores: int) -> Callable[[], Any]:
    from pipeline.params import Compute
    from pipeline.report import SilentReport
    from pipeline.stages import tokenize

    out = tempfile.mkdtemp(dir=folder)
    os.chdir(out)  # where nothing is remembered of another run
    params = tokenize.Params(300, str(folder / RANKS), None, 1, 0.01, 4)
    compute = Compute("cpu", 1, 30, workers=cores)
    paths = {"documents": source, "validation": folder / "validation", "tokens": Path(out) / "tokens"}
    return lambda: tokenize.run(params, **paths, compute=compute, report=SilentReport())


def fallback(folder: Path, source: Path, cores: int) -> Callable[[], Any]:
    sys.modules["gigatoken.gigatoken_rs"] = None  # type: ignore[assignment]
    return ours(folder, source, cores)


def tiktoken(folder: Path, source: Path, cores: int) -> Callable[[], Any]:
    import pyarrow.parquet as pq

    encoding = encodings.load_encoding(folder / RANKS)
    texts = pq.read_table(source / "documents.parquet", columns=["text"])["text"].to_pylist()
    return lambda: encoding.encode_ordinary_batch(texts, num_threads=cores)


def datasets(folder: Path, source: Path, cores: int) -> Callable[[], Any]:
    from datasets import Dataset

    encoding = encodings.load_encoding(folder / RANKS)
    cache = tempfile.mkdtemp(dir=folder)
    rows = Dataset.from_parquet([str(file) for file in part_files(source / "documents.parquet")], cache_dir=cache)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": encoding.encode_ordinary_batch(batch["text"], num_threads=cores)}

    return lambda: rows.map(encode, batched=True, remove_columns=rows.column_names)


def datatrove(folder: Path, source: Path, cores: int) -> Callable[[], Any]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    out = tempfile.mkdtemp(dir=folder)
    steps = [
        ParquetReader(str(source / "documents.parquet"), glob_pattern="*.parquet"),
        DocumentTokenizer(f"{out}/tokens", str(folder / TOKENIZER), shuffle_documents=False),
    ]
    return LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=f"{out}/logs").run


METHODS: dict[str, Callable[[Path, Path, int], Callable[[], Any]]] = {
    "ours": ours,
    "fallback": fallback,
    "tiktoken": tiktoken,
    "datasets": datasets,
    "datatrove": datatrove,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        sys.exit(__doc__)
