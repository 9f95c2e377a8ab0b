"""Goes in: nothing. Comes out: how fast we train, and how fast the others do: benchmarks/results/training-bfloat16.json
where the processor multiplies bfloat16, training.json in float32.

Each contender trains in a process of its own (so that its peak memory is its own), all on the same machine, in several
rounds of which the medians are kept: in turn, or on a machine with many cores several at once, each on cores of its
own, dealt out anew each time. Tokens per CPU-second are the fair figure where other programs run too;
the share of the peak is the model's arithmetic (model.plan.training_flops_per_token) against the best matrix product
of this machine, measured in the same process just before.

    python benchmarks/training.py --rounds 3 --threads 1
    python benchmarks/training.py --rounds 3 --threads 1 --at-once 6 --precision float32
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from record_run import RESULTS, ROOT, git, hardware

sys.path.insert(0, str(ROOT))

SHAPES: dict[str, tuple[int, ...]] = {
    # layers, heads, width, context, vocabulary, rows of a batch
    "6 x 384, vocabulary 65": (6, 6, 384, 256, 65, 12),
    "6 x 384, vocabulary 32768": (6, 6, 384, 256, 32_768, 4),
    "default shape, vocabulary 4096": (3, 4, 128, 256, 4096, 8),
}
MEASURED_CPU_SECONDS = 5.0


def measure(name: str, shape: str, precision: str, compiled: bool, optimizer: str, threads: int) -> dict[str, Any]:
    """One contender, in this process."""
    import torch
    from peers import Shape, contender

    from model.gpt import GPTConfig
    from model.plan import training_flops_per_token
    from pipeline.training_plan import peak_resident_bytes

    torch.set_num_threads(threads)
    given = Shape(*SHAPES[shape])
    peak = best_product(getattr(torch, precision))
    one = contender(name, given, precision=precision, compiled=compiled, steps=1000, optimizer=optimizer)
    tokens = torch.randint(0, given.vocab_size, (given.batch_size, given.context_length + 1))
    ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    for _ in range(3):
        one.step(ids, targets)
    wall, cpu = [], []
    while sum(cpu) < MEASURED_CPU_SECONDS * threads or len(cpu) < 5:
        begun_wall, begun_cpu = time.perf_counter(), time.process_time()
        one.step(ids, targets)
        wall.append(time.perf_counter() - begun_wall)
        cpu.append(time.process_time() - begun_cpu)
    per_step = ids.numel()
    config = GPTConfig(
        vocab_size=given.vocab_size, context_length=given.context_length, n_layers=given.n_layers,
        n_heads=given.n_heads, d_model=given.d_model, positions="learned", mlp="gelu", norm="layernorm",
        qkv_bias=True, linear_bias=True,
    )  # fmt: skip
    per_cpu_second = per_step / statistics.median(cpu)
    return {
        "tokens_per_second": per_step / statistics.median(wall),
        "tokens_per_cpu_second": per_cpu_second,
        "peak_gflops_per_cpu_second": peak / 1e9,
        "share_of_peak": training_flops_per_token(config, config.context_length) * per_cpu_second / peak,
        "peak_memory_mb": peak_resident_bytes() / 1e6,
    }


def fast_precision() -> str:
    """bfloat16 where this processor multiplies it, or else float32."""
    import torch

    from model.hardware import choose_precision

    return str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")


def best_product(dtype: Any) -> float:
    """FLOP per CPU-second of the best of many products of two large matrices, over two CPU-seconds."""
    import torch

    left, right = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    seconds = []
    while sum(seconds) < 2.0 or len(seconds) < 10:
        begun = time.process_time()
        left @ right
        seconds.append(time.process_time() - begun)
    return float(2 * 1024**3 / min(seconds))


def main() -> None:
    """Run every contender in every way, in turn, and write the medians down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, help="contenders that run side by side (Linux)")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), help="left out: the faster one here")
    parser.add_argument("--name", help="of the record, for a machine beside the first")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return
    fast = arguments.precision or fast_precision()
    name = arguments.name or ("training" if fast == "float32" else f"training-{fast}")
    file = RESULTS / f"{name}.json"
    contenders: list[tuple[str, str, bool, str]] = [
        (name, fast, compiled, "adamw")
        for name in ("homegrown", "nanogpt", "transformers", "litgpt")
        for compiled in (False, True)
    ]
    contenders.append(("homegrown", fast, False, "muon"))
    ways = [(shape, *contender) for shape in SHAPES for contender in contenders]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {shape: {} for shape in SHAPES}
    lanes = free_lanes(arguments.at_once, arguments.threads)
    for number in range(arguments.rounds):
        with ThreadPoolExecutor(arguments.at_once) as pool:
            for way, result in zip(
                ways, pool.map(lambda way: in_lane(lanes, way, arguments.threads), ways), strict=True
            ):
                shape, name, precision, compiled, optimizer = way
                label = f"{name}, {precision}{', compiled' if compiled else ''}, {optimizer}"
                if result is not None:
                    found[shape].setdefault(label, []).append(result)
                    print(f"{number} {shape}: {label}: {result['tokens_per_cpu_second']:.0f}", flush=True)
        record = {
            "command": "python benchmarks/training.py " + " ".join(sys.argv[1:]),
            "commit": git("rev-parse", "HEAD"),
            "hardware": hardware(),
            "load_after": os.getloadavg()[0],
            "rounds": number + 1,
            "threads": arguments.threads,
            "at_once": arguments.at_once,
            "shapes": {shape: summary(by_label) for shape, by_label in found.items()},
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(file)


def free_lanes(n_lanes: int, threads: int) -> SimpleQueue[list[int]]:
    """As many groups of cores as contenders run at once, spread over all that this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    apart = len(cores) // n_lanes
    if apart < threads:
        sys.exit(f"{n_lanes} at once with {threads} threads each need more than {len(cores)} cores")
    lanes: SimpleQueue[list[int]] = SimpleQueue()
    for number in range(n_lanes):
        lanes.put(cores[number * apart : number * apart + threads])
    return lanes


def in_lane(lanes: SimpleQueue[list[int]], way: tuple[Any, ...], threads: int) -> dict[str, Any] | None:
    """One contender in a process of its own, on the next cores that are free; None if it fails."""
    shape, name, precision, compiled, optimizer = way
    cores = lanes.get()
    try:
        one = json.dumps([name, shape, precision, compiled, optimizer, threads])
        command = ["taskset", "--cpu-list", ",".join(map(str, cores)), sys.executable, __file__, "--one", one]
        # On cores of its own a contender compiles by itself: workers would only wait for one another.
        environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    finally:
        lanes.put(cores)
    if done.returncode:
        print(f"{shape}: {name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def summary(by_label: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each contender, and our best against the best of the others."""
    medians = {
        label: {key: round(statistics.median(r[key] for r in results), 4) for key in results[0]}
        for label, results in by_label.items()
    }
    speed = {label: values["tokens_per_cpu_second"] for label, values in medians.items() if "muon" not in label}
    ours = max((label for label in speed if label.startswith("homegrown")), key=speed.__getitem__)
    theirs = max((label for label in speed if not label.startswith("homegrown")), key=speed.__getitem__)
    leanest = min(values["peak_memory_mb"] for label, values in medians.items() if not label.startswith("homegrown"))
    return {
        "contenders": medians,
        "best_of_ours": ours,
        "best_of_theirs": theirs,
        "times_as_fast": round(speed[ours] / speed[theirs], 3),
        "memory_against_the_leanest_peer": round(medians[ours]["peak_memory_mb"] / leanest, 3),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
