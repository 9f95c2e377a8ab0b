"""Goes in: a classifier and its test messages. Comes out: accuracy, F1, calibration, beside always one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.digests import digest_of
from pipeline.documents import Message, read_records
from pipeline.encodings import lister
from pipeline.errors import DataError
from pipeline.evaluations.bootstrap import Scores, Statistic, interval, paired
from pipeline.evaluations.calibration import expected_error, reliability
from pipeline.evaluations.figures import Figure, Figures

if TYPE_CHECKING:
    import tiktoken

    from model.gpt import GPT

_SAMPLES = 12
_MAJORITY = "always the commonest class"


def evaluate(
    model: GPT, examples: Path, *, encoding: tiktoken.Encoding, labels: list[str], datasets: Sequence[str], name: str
) -> Figures:
    """Classify every test message of the data sets; the baseline always answers what training saw most often."""
    from model.conversations import encode_labelled
    from model.scoring import classification_scores, predict_classes

    read = read_records(examples / "messages.parquet", Message)
    rows = [row for row in read if not datasets or row.dataset in datasets]
    test = [row for row in rows if row.split == "test"]
    if not test:
        raise DataError(f"evaluate: no test message is of {', '.join(datasets)}; add some, or other datasets")
    encoded = [
        encode_labelled(
            lister(encoding),
            row.text,
            labels.index(row.label),
            end_id=encoding.eot_token,
            context_length=model.config.context_length,
        )
        for row in test
    ]
    logits = predict_classes(model, [example.ids for example in encoded], padding_id=encoding.eot_token)
    truth = [labels.index(row.label) for row in test]
    scores = classification_scores(logits, truth)
    chosen = logits.argmax(-1).tolist()
    majority = labels.index(Counter(row.label for row in rows if row.split == "train").most_common(1)[0][0])
    right, guessed = np.equal(chosen, truth), np.equal(majority, truth)
    bins = reliability(logits.softmax(-1).amax(-1).numpy(), right)
    f1 = {f"f1_{label}": value for label, value in zip(labels, scores.f1_by_class, strict=True)}
    samples = [
        {"prompt": row.text, "response": labels[choice], "expected": row.label}
        for row, choice in zip(test, chosen, strict=True)
    ]
    macro_f1, n = _macro_f1(len(labels)), scores.n
    gain, low, high = paired(right, guessed)
    always = np.stack([truth, [majority] * n], -1).astype(np.float64)
    return Figures(
        metrics={
            "accuracy": scores.accuracy,
            "f1": scores.f1,
            **f1,
            "test_loss": scores.loss,
            "calibration_error": expected_error(bins),
            "majority_baseline_accuracy": float(guessed.mean()),
        },
        main="accuracy",
        higher_is_better=True,
        data=digest_of([row.id for row in test]),
        n=n,
        samples=samples[:: max(1, len(samples) // _SAMPLES)][:_SAMPLES],
        confusion=[list(row) for row in scores.confusion],
        labels=labels,
        reliability=bins,
        table=[
            Figure(f"{name}: accuracy", scores.accuracy, n, *interval(right), float(guessed.mean()), _MAJORITY),
            Figure(
                f"{name}: macro F1", scores.f1, n, *interval(np.stack([truth, chosen], -1), statistic=macro_f1),
                float(macro_f1(always[None])[0]), _MAJORITY,
            ),
            Figure(f"{name}: accuracy gained", gain, n, low, high, 0.0, _MAJORITY),
        ],
    )  # fmt: skip


def _macro_f1(n_classes: int) -> Statistic:
    """The mean of the classes' F1 of each resample of (truth, choice): (R, N, 2) to (R,)."""

    def statistic(resamples: Scores) -> Scores:
        truth, chosen = resamples[..., 0], resamples[..., 1]
        f1 = []
        for label in range(n_classes):
            hits = ((truth == label) & (chosen == label)).sum(1)
            sizes = (truth == label).sum(1) + (chosen == label).sum(1)
            f1.append(2 * hits / np.maximum(1, sizes))
        return np.asarray(np.mean(f1, axis=0), np.float64)

    return statistic
