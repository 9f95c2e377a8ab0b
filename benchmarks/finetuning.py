"""Goes in: data/samples. Comes out: benchmarks/results/finetuning.json: how fast we fine-tune, and Trainer does.

    python benchmarks/finetuning.py --rounds 5

The same weights in a Llama shape, the same encoded examples, the same number to a batch, all weights trained with fused
AdamW and the gradient clipped at 1. transformers' Trainer pads each batch to its longest row, as it is usually told to,
and is tried as it comes and with its batches grouped by length. Everything runs in float32 and in bfloat16, on a
processor that multiplies it. Each contender is a process of its own, all take turns, and medians are kept. What counts
is examples per CPU-second of one thread, after three steps to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.batches import Example, Examples  # noqa: E402
from model.conversations import encode_labelled, encode_pair  # noqa: E402
from model.gpt import GPT, GPTConfig  # noqa: E402
from model.hardware import Precision, choose_precision  # noqa: E402
from model.presets import preset  # noqa: E402
from model.templates import template_of  # noqa: E402
from model.training import TrainingConfig, TrainingState, take_step  # noqa: E402
from pipeline.encodings import encoding_of, train_ranks  # noqa: E402

SAMPLES = ROOT / "data" / "samples"
VOCAB_SIZE, CONTEXT = 1500, 256  # the samples hold merges for some 1,700
SHAPES = {"4 x 128": (4, 2, 128), "6 x 384": (6, 6, 384)}
BATCH_SIZE = {"instructions": 22, "classification": 32}
WARM_UP, STEPS = 3, 30
OURS, TRAINER, GROUPED = "homegrown", "transformers Trainer", "transformers Trainer, grouped by length"


def rows(task: str) -> list[dict[str, str]]:
    """The training examples of a task, as they lie in data/samples."""
    kinds = ("instructions", "summaries") if task == "instructions" else ("spam",)
    lines = [line for kind in kinds for line in (SAMPLES / kind / "train.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines]


def examples(task: str) -> tuple[list[Example], int]:
    """Enough of them for every step, evenly from all, and the id that ends a text."""
    found = rows(task)
    encoding = encoding_of(train_ranks([" ".join(row.values()) for row in found], VOCAB_SIZE))
    wanted = BATCH_SIZE[task] * (WARM_UP + STEPS)
    taken = found[:: max(1, len(found) // wanted)][:wanted]
    encode, end_id = encoding.encode_ordinary, encoding.eot_token
    if task == "classification":
        return [
            encode_labelled(encode, row["text"], int(row["label"] == "spam"), end_id=end_id, context_length=CONTEXT)
            for row in taken
        ], end_id
    template = template_of("plain")
    return [
        encode_pair(
            encode,
            template,
            row["instruction"],
            row["input"],
            row["response"],
            end_id=end_id,
        )
        for row in taken
    ], end_id


def start(task: str, shape: str) -> GPT:
    """The model that everybody starts from."""
    n_layers, n_heads, d_model = SHAPES[shape]
    torch.manual_seed(0)
    config: GPTConfig = preset(
        "default",
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT,
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        n_kv_heads=None,
        head_dim=None,
        d_ff=None,
    )
    model = GPT(config)
    return model.with_classifier(2) if task == "classification" else model


def measure(who: str, task: str, shape: str, precision: Precision) -> dict[str, float]:
    """One contender, in this process: what a step took, once warm."""
    torch.set_num_threads(1)
    data, end_id = examples(task)
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    (_ours if who == OURS else _trainer)(who, task, start(task, shape), data, end_id, precision, mark)
    assert len(marks) == WARM_UP + STEPS, f"{len(marks)} steps"
    done = BATCH_SIZE[task] * STEPS
    wall, cpu = (marks[-1][i] - marks[WARM_UP - 1][i] for i in (0, 1))
    return {"examples_per_second": done / wall, "examples_per_cpu_second": done / cpu}


def _ours(_: str, task: str, model: GPT, data: list[Example], end_id: int, precision: Precision, mark: Any) -> None:
    batches = Examples(data, BATCH_SIZE[task], 0, end_id)
    config = TrainingConfig(
        steps=WARM_UP + STEPS,
        optimizer="adamw",
        learning_rate=1e-3,
        precision=precision,
        compile=False,
    )
    state = TrainingState(model, config, "cpu")
    for _step in range(WARM_UP + STEPS):
        take_step(state, batches)
        mark()


def _trainer(
    who: str, task: str, model: GPT, data: list[Example], end_id: int, precision: Precision, mark: Any
) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from model.weights import to_huggingface

    weights, config = to_huggingface(model, end_id)
    kind: Any = LlamaForSequenceClassification if task == "classification" else LlamaForCausalLM
    theirs = kind(LlamaConfig(**{**config, "pad_token_id": end_id, "num_labels": 2}))
    missing, unknown = theirs.load_state_dict(weights, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)  # the head is the embedding

    def collate(some: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(one["input_ids"]) for one in some)
        padding = [longest - len(one["input_ids"]) for one in some]
        batch = {
            "input_ids": [one["input_ids"] + [end_id] * n for one, n in zip(some, padding, strict=True)],
            "attention_mask": [[1] * len(one["input_ids"]) + [0] * n for one, n in zip(some, padding, strict=True)],
            "labels": [
                one["labels"] if task == "classification" else one["labels"] + [-100] * n
                for one, n in zip(some, padding, strict=True)
            ],
        }
        return {key: torch.tensor(value) for key, value in batch.items()}

    class Marks(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
            mark()

    def labels(example: Example) -> Any:
        # transformers moves the targets by one itself; ours have moved already.
        if isinstance(example.targets, int):
            return example.targets
        return [-100, *(t if t >= 0 else -100 for t in example.targets[:-1])]

    dataset = [{"input_ids": list(example.ids), "labels": labels(example)} for example in data]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH_SIZE[task],
            max_steps=WARM_UP + STEPS,
            learning_rate=1e-3,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=precision == "bfloat16",
            use_cpu=True,
            train_sampling_strategy="group_by_length" if who == GROUPED else "random",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        Trainer(theirs, arguments, data_collator=collate, train_dataset=dataset, callbacks=[Marks()]).train()


def main() -> None:
    """Let every contender run in turn, and write the medians down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(*json.loads(asked.one))))
        return
    from record_run import RESULTS, git, hardware

    commit, before = git("rev-parse", "HEAD"), hardware()
    precisions: list[Precision] = ["float32"]
    if choose_precision("auto", torch.device("cpu")) == torch.bfloat16:
        precisions.append("bfloat16")
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number in range(asked.rounds):
        for task in BATCH_SIZE:
            for shape in SHAPES:
                for who in (OURS, TRAINER, GROUPED):
                    for precision in precisions:
                        one = json.dumps([who, task, shape, precision])
                        command = [sys.executable, __file__, "--one", one]
                        done = subprocess.run(command, capture_output=True, text=True, check=False)
                        if done.returncode:
                            sys.exit(f"{one}: {done.stderr.strip()}")
                        result = json.loads(done.stdout.strip().splitlines()[-1])
                        found.setdefault(f"{task}, {shape}", {}).setdefault(f"{who}, {precision}", []).append(result)
                        print(f"{number} {one}: {result['examples_per_cpu_second']:.1f}", flush=True)
    record = {
        "command": f"python benchmarks/finetuning.py --rounds {asked.rounds}",
        "commit": commit,
        "hardware": before,
        "versions": {package: version(package) for package in ("torch", "transformers", "accelerate")},
        "rounds": asked.rounds,
        "batch_size": BATCH_SIZE,
        "steps": STEPS,
        "cases": {case: summary(contenders) for case, contenders in found.items()},
    }
    (RESULTS / "finetuning.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for case, one in record["cases"].items():
        print(f"{case}: {one['times_as_fast']} times as fast as the best of transformers")


def summary(contenders: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, and our best against the best of the others."""
    medians = {
        label: {key: round(statistics.median(one[key] for one in results), 2) for key in results[0]}
        for label, results in contenders.items()
    }
    ours, theirs = (
        max(one["examples_per_cpu_second"] for label, one in medians.items() if label.startswith(OURS) == is_ours)
        for is_ours in (True, False)
    )
    return {"contenders": medians, "times_as_fast": round(ours / theirs, 2)}


if __name__ == "__main__":
    main()
