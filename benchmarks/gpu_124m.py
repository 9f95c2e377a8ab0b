"""Goes in: nothing but a GPU. Comes out: benchmarks/results/gpu_124m.json: GPT-2's 124M shape on one card.

Tokens per second, share of the card's published bfloat16 peak (MFU) and memory, ours beside transformers' GPT-2, litgpt
and a nanoGPT-style loop, compiled, each in a process of its own; ours also without a compiler, with Muon, with
documents kept apart, and in float8, whose share is of the same peak. Half a million tokens make a step, as in GPT-2's
training. Random tokens, the same in every step: loading data is another benchmark's subject, and whoever does not learn
them by heart is at fault.

Compiling takes longer than measuring, so several contenders compile side by side (`--at-once`, as many as the card's
memory holds); then each is measured while the others wait.

    python benchmarks/gpu_124m.py --at-once 4
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

SHAPE = (12, 12, 768, 1024, 50_304)
"""GPT-2's 124M with its vocabulary padded to a multiple of 128, as nanoGPT does."""
ROWS_PER_STEP = 512
WARM_UP, MEASURED = 2, 6
CONTENDERS: dict[str, tuple[str, str, bool, str, int, int]] = {
    "homegrown, bfloat16, compiled, adamw, 128 rows": ("homegrown", "bfloat16", True, "adamw", 128, 0),
    "homegrown, bfloat16, compiled, adamw, 32 rows": ("homegrown", "bfloat16", True, "adamw", 32, 0),
    "homegrown, float8, compiled, adamw, 32 rows": ("homegrown", "float8", True, "adamw", 32, 0),
    "nanogpt, bfloat16, compiled, adamw, 32 rows": ("nanogpt", "bfloat16", True, "adamw", 32, 0),
    "transformers, bfloat16, compiled, adamw, 32 rows": ("transformers", "bfloat16", True, "adamw", 32, 0),
    "litgpt, bfloat16, compiled, adamw, 32 rows": ("litgpt", "bfloat16", True, "adamw", 32, 0),
    "homegrown, bfloat16, compiled, muon, 64 rows": ("homegrown", "bfloat16", True, "muon", 64, 0),
    "homegrown, bfloat16, compiled, adamw, 32 rows, documents": ("homegrown", "bfloat16", True, "adamw", 32, 300),
    "homegrown, bfloat16, adamw, 32 rows": ("homegrown", "bfloat16", False, "adamw", 32, 0),
}
"""Whose, in what, compiled or not, by which optimizer; the rows that are computed at once, whose gradients are added up
until the step has all of its rows; and the tokens of a document, where documents are kept apart."""


def measure(
    name: str, precision: str, compiled: bool, optimizer: str, rows: int, document_tokens: int
) -> dict[str, Any]:
    """One contender, in this process: it says when it is ready, and goes on when it is told to."""
    import torch
    from peers import Shape, contender

    from model.gpt import GPTConfig
    from model.hardware import peak_flops
    from model.plan import training_flops_per_token

    device, given = torch.device("cuda"), Shape(*SHAPE, rows)
    torch.set_float32_matmul_precision("high")
    one = contender(
        name,
        given,
        precision=precision,
        compiled=compiled,
        steps=100,
        optimizer=optimizer,
        device="cuda",
        accumulation=ROWS_PER_STEP // rows,
        document_tokens=document_tokens,
    )
    tokens = torch.randint(0, given.vocab_size, (ROWS_PER_STEP, given.context_length + 1), device=device)
    ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    losses = [one.step(ids, targets) for _ in range(WARM_UP)]
    torch.cuda.empty_cache()
    print("ready", flush=True)
    sys.stdin.readline()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(MEASURED):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        losses.append(one.step(ids, targets))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    per_second = ids.numel() / statistics.median(seconds)
    config = GPTConfig(
        vocab_size=given.vocab_size, context_length=given.context_length, n_layers=given.n_layers,
        n_heads=given.n_heads, d_model=given.d_model, positions="learned", mlp="gelu", norm="layernorm",
        qkv_bias=True, linear_bias=True,
    )  # fmt: skip
    peak, flops = peak_flops(device, torch.bfloat16), training_flops_per_token(config, config.context_length)
    return {
        "tokens_per_second": round(per_second),
        "mfu": round(flops * per_second / peak, 4) if peak else None,
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20),
        "loss": [round(losses[0], 3), round(losses[-1], 3)],
    }


def main() -> None:
    """Every contender: compiled side by side, measured in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, default=1, help="contenders that compile side by side")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*CONTENDERS[arguments.one])))
        return
    found: dict[str, Any] = {}
    labels = list(CONTENDERS)
    for first in range(0, len(labels), arguments.at_once):
        compiling = {label: start(label) for label in labels[first : first + arguments.at_once]}
        for process in compiling.values():
            assert process.stdout is not None
            while process.stdout.readline().strip() not in ("ready", ""):
                pass
        for label, process in compiling.items():
            said, _ = process.communicate("go\n")
            found[label] = json.loads(said.strip().splitlines()[-1]) if process.returncode == 0 else "failed"
            print(label, found[label], flush=True)
            write_down(found)  # what is measured is kept, whatever becomes of the rest


def write_down(found: dict[str, Any]) -> None:
    """The record of what has been measured so far."""
    record = {
        "command": "python benchmarks/gpu_124m.py",
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "shape": SHAPE,
        "rows_per_step": ROWS_PER_STEP,
        "contenders": found,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "gpu_124m.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def start(label: str) -> subprocess.Popen[str]:
    """A contender in a process of its own; what it has to complain of is seen at once."""
    command = [sys.executable, __file__, "--one", label]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
