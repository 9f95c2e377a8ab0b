"""Goes in: tinyshakespeare. Comes out: benchmarks/results/time_to_loss.json: what each learns from the same tokens.

All train on the same windows in the same order, characters as tokens, and are scored on the same held-out windows
after every tenth of the budget: bits per byte, for each seed. AdamW's rate is for each the best of three, chosen with
the first seed; Muon runs at its default. Ours is of GPT-2's form, and once more with rotary positions, as litgpt's has.

    python benchmarks/time_to_loss.py ../shared/data/tinyshakespeare/input.txt
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import OURS, OURS_ROTARY
from record_run import RESULTS, git, hardware
from training import fast_precision

RATES = (1e-3, 3e-3, 8e-3)
MUON_RATE = 8e-3  # of AdamW beside Muon, for what is no matrix of a block
LOOKS = 10


def learn(name: str, optimizer: str, rate: float, seed: int, corpus: dict[str, Any], steps: int) -> dict[str, Any]:
    """One training: bits per byte after every tenth, and the seconds it took."""
    from peers import Shape, contender

    from model.batches import TokenWindows

    shape = Shape(4, 4, 128, 128, corpus["vocab_size"], 16)
    windows = TokenWindows(corpus["train"], shape.context_length, shape.batch_size, seed)
    held_out = TokenWindows(corpus["validation"], shape.context_length, 64, 0)(0)
    one = contender(
        name,
        shape,
        precision=corpus["precision"],
        compiled=False,
        steps=steps,
        optimizer=optimizer,
        rate=rate,
        seed=seed,
    )
    curve, begun = [], time.process_time()
    for step in range(steps):
        batch = windows(step)
        one.step(batch.ids_BT, batch.targets)
        if (step + 1) % (steps // LOOKS) == 0:
            # One byte is one token.
            curve.append(round(one.evaluate(held_out.ids_BT, held_out.targets) / math.log(2), 4))
    return {"bits_per_byte": curve, "cpu_seconds": round(time.process_time() - begun, 1), "rate": rate}


def main() -> None:
    """Every contender with every seed."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokens", type=int, default=614_400)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = np.frombuffer(arguments.corpus.read_bytes(), dtype=np.uint8)
    alphabet = np.unique(text)
    ids = np.searchsorted(alphabet, text).astype(np.uint16)
    cut = int(0.9 * len(ids))
    corpus = {"precision": fast_precision(), "vocab_size": len(alphabet), "train": ids[:cut], "validation": ids[cut:]}
    steps = arguments.tokens // (16 * 128) // LOOKS * LOOKS
    found: dict[str, Any] = {}
    for name in (OURS, OURS_ROTARY, "nanogpt", "transformers", "litgpt"):
        tried = [learn(name, "adamw", rate, 0, corpus, steps) for rate in RATES]
        best = min(tried, key=lambda one: one["bits_per_byte"][-1])
        print(name, "adamw", best, flush=True)
        others = [learn(name, "adamw", best["rate"], seed, corpus, steps) for seed in range(1, arguments.seeds)]
        found[f"{name}, adamw"] = summary([best, *others])
    runs = [learn(OURS, "muon", MUON_RATE, seed, corpus, steps) for seed in range(arguments.seeds)]
    found["homegrown, muon"] = summary(runs)
    best_peer = min(found[label]["final_mean"] for label in found if not label.startswith("homegrown"))
    curve = found["homegrown, muon"]["mean_curve"]
    reached = next((tenth for tenth, value in enumerate(curve, start=1) if value <= best_peer), None)
    record = {
        "command": "python benchmarks/time_to_loss.py " + " ".join(["CORPUS", *sys.argv[2:]]),
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "load_after": os.getloadavg()[0],
        "shape": "4 layers x 128, 4 heads, context 128, GPT-2's form, 16 rows a batch, one token per byte",
        "precision": corpus["precision"],
        "tokens": steps * 16 * 128,
        "contenders": found,
        "best_peer_bits_per_byte": best_peer,
        "share_of_the_tokens_that_muon_needs_for_it": reached and reached / LOOKS,
    }
    path = RESULTS / "time_to_loss.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(path, best_peer, curve, reached)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs, the mean of their curves, and where they end."""
    mean_curve = [round(statistics.mean(values), 4) for values in zip(*(r["bits_per_byte"] for r in runs), strict=True)]
    return {"runs": runs, "mean_curve": mean_curve, "final_mean": mean_curve[-1]}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
