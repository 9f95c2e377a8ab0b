"""Goes in: an instructed model and test summaries. Comes out: ROUGE by rouge-score, beside the first sentence.

ROUGE-1, -2 and -L (Lin, 2004) are F-measures without stemming, each the mean over the texts, from 0 to 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pipeline.evaluations.answering import Asking, answer, data_digest, shown
from pipeline.evaluations.bootstrap import Scores, interval, paired
from pipeline.evaluations.figures import Figure, Figures
from pipeline.instruction_rows import InstructionRow

KINDS = ("rouge1", "rouge2", "rougeL")
_LEAD = "the first sentence"


def evaluate(asking: Asking, rows: Sequence[InstructionRow]) -> Figures:
    """Summarise every row greedily; the baseline gives the first sentence (lead-1), which in news is hard to beat."""
    answers = answer(asking, rows)
    references, n = [row.response for row in rows], len(rows)
    scores, leads = rouge(answers, references), rouge([first_sentence(row.input) for row in rows], references)
    table = [
        Figure(
            f"summaries: {kind}",
            float(scores[:, i].mean()),
            n,
            *interval(scores[:, i]),
            float(leads[:, i].mean()),
            _LEAD,
        )
        for i, kind in enumerate(KINDS)
    ]
    gain, low, high = paired(scores[:, -1], leads[:, -1])
    return Figures(
        metrics={kind: float(scores[:, i].mean()) for i, kind in enumerate(KINDS)},
        main="rougeL",
        higher_is_better=True,
        data=data_digest(rows),
        n=n,
        samples=shown(rows, answers),
        table=[*table, Figure("summaries: rougeL gained", gain, n, low, high, 0.0, _LEAD)],
    )


def first_sentence(text: str) -> str:
    """The text up to the first full stop, question or exclamation mark that a space follows."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def rouge(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """The F-measures of each answer (N, 3), in the order of KINDS."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=False)
    found = [scorer.score(reference, given) for given, reference in zip(answers, references, strict=True)]
    return np.asarray([[score[kind].fmeasure for kind in KINDS] for score in found], float)
