"""Goes in: the public texts of two lessons. Comes out: benchmarks/results/tutorial.json, their figures and ours.

The lessons are Raschka's "Build a Large Language Model (From Scratch)", chapter 5, which trains GPT-2's 124M shape on a
short story until it knows it by heart, and nanoGPT's README, which trains two sizes on Shakespeare's characters. Shape,
text and split are theirs. Each row is recorded by itself, with its hardware and commit.

    python benchmarks/tutorial.py ../shared/data [the-verdict] [characters-cpu] [characters-gpu]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers import NanoGPT, Shape  # noqa: E402
from benchmarks.record_run import RESULTS, git, hardware  # noqa: E402
from model.batches import Batch, TokenWindows, batch_of, shuffled  # noqa: E402
from model.generation import generate  # noqa: E402
from model.gpt import GPT, GPTConfig  # noqa: E402
from model.presets import preset  # noqa: E402
from model.scoring import validation_loss  # noqa: E402
from model.training import TrainingConfig, TrainingState, describe_compute, train  # noqa: E402
from pipeline.encodings import load_encoding  # noqa: E402

PROMPT = "Every effort moves you"


def the_verdict(folder: Path) -> dict[str, Any]:
    """Ten epochs of a story of 5,145 tokens: nine batches of two windows to learn, one held out."""
    encoding = load_encoding(folder / "gpt2-tokenizer" / "vocab.bpe")
    text = (folder / "the-verdict" / "the-verdict.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    learned, held_out = (
        batch_of([np.array(ids[at : at + 257]) for at in range(0, len(ids) - 256, 256)], None)
        for ids in map(encoding.encode_ordinary, (text[:cut], text[cut:]))
    )
    per_epoch = len(learned.ids_BT) // 2

    def batch(position: int) -> Batch:
        epoch, place = divmod(position, per_epoch)
        two = shuffled(range(2 * place, 2 * place + 2), 2 * per_epoch, epoch)
        return Batch(learned.ids_BT[two], learned.targets[two])

    torch.manual_seed(123)
    model = GPT(preset("seed-124m", context_length=256, dropout=0.1))
    for module in model.modules():  # the lesson begins with what torch gives a layer, we with smaller weights
        if isinstance(module, nn.Linear | nn.Embedding):
            module.reset_parameters()
    config = TrainingConfig(
        steps=10 * per_epoch,
        optimizer="adamw",
        learning_rate=4e-4,
        beta2=0.999,
        final_lr_fraction=1.0,
        clip_norm=0.0,
        seed=123,
    )

    def look() -> dict[str, Any]:
        model.eval()
        with torch.no_grad():
            losses = [float(model.loss(part.ids_BT, part.targets)) for part in (learned, held_out)]
        [sample] = generate(model, [encoding.encode_ordinary(PROMPT)], max_new_tokens=50)
        return {
            "training_loss": round(losses[0], 3),
            "validation_loss": round(losses[1], 3),
            "sample": encoding.decode(sample),
        }

    state = TrainingState(model, config)
    epochs = [look()]
    for step in train(model, batch, config, state):
        if step.step % per_epoch == 0:
            epochs.append(look())
            print(step.step // per_epoch, epochs[-1], flush=True)
    return {
        "theirs": {"initial_loss": 10.99, "training_loss_below": 0.6, "validation_loss_above": 6},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": len(encoding.encode_ordinary(text)),
        "batches": {"training": per_epoch, "validation": len(held_out.ids_BT) // 2},
        "epochs": epochs,
        "longest_stretch_of_the_last_sample_in_the_story": stretch_in(epochs[-1]["sample"], text[:cut]),
        "compute": describe_compute(state),
    }


def stretch_in(sample: str, text: str) -> str:
    """The longest stretch of a sample that stands in the text word for word."""
    longest = ""
    for start in range(len(sample)):
        while start + len(longest) < len(sample) and sample[start : start + len(longest) + 1] in text:
            longest = sample[start : start + len(longest) + 1]
    return longest


def characters_cpu(folder: Path) -> dict[str, Any]:
    """The size that nanoGPT's README trains on a laptop's CPU, with its settings, and with Muon for as many steps."""
    shape = {"context": 64, "batch": 12, "n_layers": 4, "n_heads": 4, "d_model": 128}
    common: dict[str, Any] = {"steps": 2000, "beta2": 0.99, "warmup_steps": 100, "final_lr_fraction": 0.1}
    return {
        "theirs": 1.88,
        "a loop as theirs": loop_as_nanogpts(folder, context=64, batch=12, n_layers=4, n_heads=4, d_model=128),
        "adamw": characters(folder, TrainingConfig(**common, optimizer="adamw", learning_rate=1e-3), **shape),
        "muon": characters(folder, TrainingConfig(**common, optimizer="muon", learning_rate=3e-3), **shape),
    }


def characters_gpu(folder: Path) -> dict[str, Any]:
    """The size that it trains on a GPU, for 5,000 steps of which it keeps the best; here a fifth as many, with Muon."""
    shape = {"context": 256, "batch": 64, "n_layers": 6, "n_heads": 6, "d_model": 384, "dropout": 0.2}
    config = TrainingConfig(steps=1000, optimizer="muon", learning_rate=3e-3, warmup_steps=50)
    return {"theirs": 1.4697, "muon": characters(folder, config, **shape)}


def loop_as_nanogpts(
    folder: Path, *, context: int, batch: int, n_layers: int, n_heads: int, d_model: int
) -> dict[str, Any]:
    """nanoGPT's way with its settings for the CPU, written anew: windows at random places, float32, AdamW.

    It is scored as ours is, whole, and as nanoGPT does it, ten times: by twenty batches from random places.
    """
    ids, alphabet = characters_of(folder)
    cut = int(0.9 * len(ids))
    learned, held_out = (torch.from_numpy(part.astype(np.int64)) for part in (ids[:cut], ids[cut:]))
    torch.manual_seed(1337)
    model = NanoGPT(Shape(n_layers, n_heads, d_model, context, len(alphabet), batch))
    for name, parameter in model.named_parameters():  # no biases, and smaller weights where branches are added up
        if name.endswith("bias"):
            parameter.requires_grad_(False)
        if name.endswith(("out.weight", "down.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, others = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def loss(tokens: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        windows = tokens[starts[:, None] + torch.arange(context + 1)]
        return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    def anywhere(tokens: torch.Tensor) -> torch.Tensor:
        return loss(tokens, torch.randint(len(tokens) - context, (batch,)))

    for step in range(2000):
        share = 0.5 + 0.5 * math.cos(math.pi * max(0, step - 100) / 1900)
        for group in optimizer.param_groups:
            group["lr"] = min(1e-3 * (step + 1) / 100, 1e-4 + 9e-4 * share)
        optimizer.zero_grad()
        anywhere(learned).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    with torch.no_grad():
        whole = loss(held_out, torch.arange(0, len(held_out) - context, context))
        samples = [statistics.mean(float(anywhere(held_out)) for _ in range(20)) for _ in range(10)]
    return {
        "validation_loss": round(float(whole), 4),
        "validation_loss_by_twenty_batches": sorted(round(sample, 4) for sample in samples),
    }


def characters_of(folder: Path) -> tuple[npt.NDArray[np.uint16], list[str]]:
    """Shakespeare's characters as numbers, and the alphabet."""
    text = (folder / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    return np.array([alphabet.index(character) for character in text], np.uint16), alphabet


def characters(folder: Path, config: TrainingConfig, *, context: int, batch: int, **shape: Any) -> dict[str, Any]:
    """Train on nine tenths of Shakespeare's characters; what the last tenth costs, in windows that do not overlap."""
    ids, alphabet = characters_of(folder)
    cut = int(0.9 * len(ids))
    torch.manual_seed(config.seed)
    gpt2 = {"norm": "layernorm", "positions": "learned", "mlp": "gelu"}
    model = GPT(GPTConfig(vocab_size=len(alphabet), context_length=context, **gpt2, **shape))
    windows = TokenWindows(ids[:cut], context, batch, config.seed)
    state = TrainingState(model, config)
    curve = {}
    for step in train(model, windows, config, state):
        if step.step % (config.steps // 10) == 0:
            score = validation_loss(model, ids[cut:], start_id=alphabet.index("\n"), stride=context)
            curve[step.step] = round(score.nats / score.tokens, 4)
            print(step.step, round(step.loss, 4), curve[step.step], flush=True)
    [sample] = generate(model, [[alphabet.index("\n")]], max_new_tokens=context - 1, temperature=0.8, seed=1)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "characters_trained_on": config.steps * batch * context,
        "validation_loss_by_step": curve,
        "validation_loss": min(curve.values()),
        "sample": "".join(alphabet[character] for character in sample),
        "compute": describe_compute(state),
    }


ROWS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "the-verdict": the_verdict,
    "characters-cpu": characters_cpu,
    "characters-gpu": characters_gpu,
}


def main() -> None:
    """Measure the rows asked for, or all, and write them beside those that are recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", nargs="*", help=", ".join(ROWS))
    asked = parser.parse_args()
    if unknown := set(asked.rows) - ROWS.keys():
        parser.error(f"there is no row {', '.join(unknown)}; known: {', '.join(ROWS)}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    file = RESULTS / "tutorial.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in asked.rows or ROWS:
        begun = time.perf_counter()
        found = ROWS[name](asked.folder)
        seconds = round(time.perf_counter() - begun, 1)
        record[name] = {"commit": git("rev-parse", "HEAD"), "hardware": hardware(), "seconds": seconds, **found}
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
