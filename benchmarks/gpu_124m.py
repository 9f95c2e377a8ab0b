"""Goes in: nothing but a GPU. Comes out: benchmarks/results/gpu_124m.json: GPT-2's 124M shape on one card.

Tokens per second, share of the card's published bfloat16 peak (MFU) and memory, ours beside transformers' GPT-2, litgpt
and a nanoGPT-style loop, each compiled and not, each in a process of its own; ours also with Muon, and in float8, whose
share is of the same peak. Random tokens: loading data is another benchmark's subject.

    python benchmarks/gpu_124m.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record_run import RESULTS, git, hardware

SHAPE = (12, 12, 768, 1024, 50_304, 32)
"""GPT-2's 124M with its vocabulary padded to a multiple of 128, as nanoGPT does; 32 rows a batch."""
WARM_UP, MEASURED = 10, 30


def measure(name: str, precision: str, compiled: bool, optimizer: str) -> dict[str, Any]:
    """One contender, in this process."""
    import torch
    from peers import Shape, contender

    from model.gpt import GPTConfig
    from model.hardware import flops_per_token, peak_flops

    device, given = torch.device("cuda"), Shape(*SHAPE)
    torch.set_float32_matmul_precision("high")
    one = contender(name, given, precision=precision, compiled=compiled, steps=1000, optimizer=optimizer, device="cuda")
    tokens = torch.randint(0, given.vocab_size, (given.batch_size, given.context_length + 1), device=device)
    ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    for _ in range(WARM_UP):
        one.step(ids, targets)
    seconds = []
    for _ in range(MEASURED):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        one.step(ids, targets)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    per_second = ids.numel() / statistics.median(seconds)
    config = GPTConfig(
        vocab_size=given.vocab_size, context_length=given.context_length, n_layers=given.n_layers,
        n_heads=given.n_heads, d_model=given.d_model, positions="learned", mlp="gelu", norm="layernorm",
        qkv_bias=True, linear_bias=True,
    )  # fmt: skip
    peak = peak_flops(device, torch.bfloat16)
    return {
        "tokens_per_second": round(per_second),
        "mfu": round(flops_per_token(config) * per_second / peak, 4) if peak else None,
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20),
    }


def main() -> None:
    """Every contender, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return
    ways = [
        (name, "bfloat16", compiled, "adamw")
        for name in ("homegrown", "nanogpt", "transformers", "litgpt")
        for compiled in (False, True)
    ]
    found = {}
    ways += [("homegrown", "bfloat16", True, "muon"), ("homegrown", "float8", True, "adamw")]
    for name, precision, compiled, optimizer in ways:
        label = f"{name}, {precision}{', compiled' if compiled else ''}, {optimizer}"
        command = [sys.executable, __file__, "--one", json.dumps([name, precision, compiled, optimizer])]
        done = subprocess.run(command, capture_output=True, text=True)
        found[label] = (
            json.loads(done.stdout.strip().splitlines()[-1])
            if done.returncode == 0
            else {"failed": done.stderr.strip().splitlines()[-1]}
        )
        print(label, found[label], flush=True)
    record = {"commit": git("rev-parse", "HEAD"), "hardware": hardware(), "shape": SHAPE, "contenders": found}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "gpu_124m.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
