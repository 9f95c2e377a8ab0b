"""Goes in: sms.tsv, label TAB text. Comes out: results/sms-spam.json: spam told from ham, from random weights.

    python benchmarks/sms_spam.py ../shared/data/sms-spam/sms.tsv

Repeated messages are removed first, whatever their case and spaces: a copy in the test would be known by heart. Then
ham is cut to as many as there are of spam, and 70/10/20 % become training, validation and test. Everything is learned
from the training messages alone: the vocabulary, then the language (the model predicts their next tokens), then the
label. Each seed has its own split, weights and order. One thread, CPU-seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.batches import Examples, TokenWindows  # noqa: E402
from model.conversations import encode_labelled  # noqa: E402
from model.gpt import GPT, GPTConfig  # noqa: E402
from model.scoring import classification_scores, predict_classes  # noqa: E402
from model.training import TrainingConfig, train  # noqa: E402
from pipeline.encodings import encoding_of, train_ranks  # noqa: E402
from pipeline.evaluations.bootstrap import interval  # noqa: E402

LABELS = ("ham", "spam")
VOCAB_SIZE, CONTEXT = 1024, 128
SHAPE = {"n_layers": 3, "n_heads": 4, "d_model": 128, "dropout": 0.1}
LANGUAGE = {"epochs": 8, "batch_size": 8, "learning_rate": 0.005, "muon_learning_rate": 0.02}
CLASSES = {"epochs": 6, "batch_size": 16, "learning_rate": 0.001, "muon_learning_rate": 0.01}
Row = tuple[str, str]


def main() -> None:
    """Measure every seed, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    from record_run import RESULTS, git, hardware

    torch.set_num_threads(1)
    rows = read(asked.file)
    unique = deduplicated(rows)
    runs = [measure(unique, seed) for seed in range(asked.seeds)]
    accuracy = [run["test_accuracy"] for run in runs]
    record = {
        "command": "python benchmarks/sms_spam.py ../shared/data/sms-spam/sms.tsv",
        "commit": git("rev-parse", "HEAD"),
        "hardware": hardware(),
        "torch": torch.__version__,
        "data": {"messages": len(rows), "after_deduplication": len(unique), **runs[0]["rows"]},
        "settings": {"vocab_size": VOCAB_SIZE, **SHAPE, "language": LANGUAGE, "classes": CLASSES, "threads": 1},
        "test_accuracy": {
            "mean": round(statistics.mean(accuracy), 4),
            "spread": round(statistics.stdev(accuracy), 4) if len(accuracy) > 1 else 0.0,
            "lowest": min(accuracy),
            "highest": max(accuracy),
        },
        "cpu_seconds": round(statistics.mean(run["cpu_seconds"] for run in runs), 1),
        "seeds": runs,
    }
    (RESULTS / "sms-spam.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"test accuracy {record['test_accuracy']}, {record['cpu_seconds']} CPU-seconds for each seed")


def read(file: Path) -> list[Row]:
    """The rows of (label, text). A quotation mark is a character like any other: quoting would swallow two rows."""
    lines = file.read_text(encoding="utf-8").split("\n")
    return [(label, text) for label, _, text in (line.partition("\t") for line in lines if line.strip())]


def deduplicated(rows: list[Row]) -> list[Row]:
    """The first of every message, whatever its case and spaces."""
    kept = {" ".join(text.casefold().split()): (label, text) for label, text in reversed(rows)}
    return list(reversed(kept.values()))


def split(rows: list[Row], seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """As many of either label, 70/10/20 % of them."""
    mixed = random.Random(seed).sample(rows, len(rows))
    fewest = min(sum(label == each for label, _ in rows) for each in LABELS)
    chosen = [row for label in LABELS for row in [row for row in mixed if row[0] == label][:fewest]]
    chosen = random.Random(seed + 1).sample(chosen, len(chosen))
    first, second = int(0.7 * len(chosen)), int(0.8 * len(chosen))
    return chosen[:first], chosen[first:second], chosen[second:]


def measure(rows: list[Row], seed: int) -> dict[str, Any]:
    """One model from random weights: what it reached on validation and test, and what it took."""
    training, validation, test = split(rows, seed)
    begun = time.process_time()
    encoding = encoding_of(train_ranks([text for _, text in training], VOCAB_SIZE))
    end_id = encoding.eot_token
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=VOCAB_SIZE, context_length=CONTEXT, **SHAPE))
    tokens = np.asarray([id for _, text in training for id in (end_id, *encoding.encode_ordinary(text))], np.uint16)
    windows = TokenWindows(tokens, CONTEXT, LANGUAGE["batch_size"], seed, end_id)
    run(model, windows, LANGUAGE, -(-windows.windows_per_epoch // LANGUAGE["batch_size"]), seed)
    classifier = model.with_classifier(len(LABELS))

    def encoded(some: list[Row]) -> list[Any]:
        return [
            encode_labelled(encoding.encode_ordinary, text, LABELS.index(label), end_id=end_id, context_length=CONTEXT)
            for label, text in some
        ]

    examples = Examples(encoded(training), CLASSES["batch_size"], seed, end_id)
    run(classifier, examples, CLASSES, len(examples), seed)
    taken = time.process_time() - begun
    scores = {}
    for name, some in (("validation", validation), ("test", test)):
        logits = predict_classes(classifier, [example.ids for example in encoded(some)], padding_id=end_id)
        truth = [LABELS.index(label) for label, _ in some]
        scores[name] = classification_scores(logits, truth)
    right = (logits.argmax(-1) == torch.tensor(truth)).numpy()
    found = {
        "seed": seed,
        "rows": {"training": len(training), "validation": len(validation), "test": len(test)},
        "validation_accuracy": round(scores["validation"].accuracy, 4),
        "test_accuracy": round(scores["test"].accuracy, 4),
        "test_interval": [round(end, 4) for end in interval(right)],
        "test_confusion": [list(row) for row in scores["test"].confusion],
        "parameters": classifier.config.parameter_count(),
        "cpu_seconds": round(taken, 1),
    }
    print(found, flush=True)
    return found


def run(model: GPT, batches: Any, settings: dict[str, Any], batches_per_epoch: int, seed: int) -> None:
    """Train to the end."""
    steps = settings["epochs"] * batches_per_epoch
    config = TrainingConfig(
        steps=steps,
        learning_rate=settings["learning_rate"],
        muon_learning_rate=settings["muon_learning_rate"],
        warmup_steps=steps // 10,
        seed=seed,
    )
    for _ in train(model, batches, config):
        pass


if __name__ == "__main__":
    main()
