"""Goes in: an instructed model and test instructions. Comes out: how often it answers what was expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.evaluations.answering import Asking, answer, data_digest, shown
from pipeline.evaluations.bootstrap import interval
from pipeline.evaluations.figures import Figure, Figures
from pipeline.instruction_rows import InstructionRow


def evaluate(asking: Asking, rows: Sequence[InstructionRow], training: Sequence[InstructionRow]) -> Figures:
    """Answer every row greedily; an answer counts if it equals the expected one but for outer spaces.

    The baseline answers whatever the training rows answer most often to the same instruction, or to any if it is new.
    """
    answers = answer(asking, rows)
    right = [given == row.response.strip() for given, row in zip(answers, rows, strict=True)]
    commonest = _commonest(training)
    anything = commonest.get("", "")
    guessed = [commonest.get(row.instruction, anything) == row.response.strip() for row in rows]
    share = sum(right) / len(rows)
    low, high = interval(right)
    baseline = "the commonest response of training"
    return Figures(
        metrics={"exact_match": share},
        main="exact_match",
        higher_is_better=True,
        data=data_digest(rows),
        n=len(rows),
        samples=shown(rows, answers, right),
        table=[Figure("instructions: exact match", share, len(rows), low, high, sum(guessed) / len(rows), baseline)],
    )


def _commonest(training: Sequence[InstructionRow]) -> dict[str, str]:
    """The commonest response to each instruction, and under the empty one the commonest of all."""
    counts: dict[str, Counter[str]] = {"": Counter()}
    for row in training:
        for key in ("", row.instruction):
            counts.setdefault(key, Counter())[row.response.strip()] += 1
    return {key: found.most_common(1)[0][0] for key, found in counts.items() if found}
