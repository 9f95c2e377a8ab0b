"""Goes in: an instructed model and test translations. Comes out: chrF and BLEU by sacrebleu, beside copying.

chrF (Popović, 2015) counts character n-grams, which suits small test sets and languages with endings; it is the mean
over the sentences, so that sentences can be drawn for its interval. BLEU (Papineni et al., 2002) is of the whole set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.evaluations.answering import Asking, answer, data_digest, shown
from pipeline.evaluations.bootstrap import Scores, interval, paired
from pipeline.evaluations.figures import Figure, Figures
from pipeline.instruction_rows import InstructionRow

_COPY = "the source as it is"
_ORDERS = 4


def evaluate(asking: Asking, rows: Sequence[InstructionRow]) -> Figures:
    """Translate every row greedily; the baseline gives the source back, and keeps names and numbers right by that."""
    answers = answer(asking, rows)
    references, sources = [row.response for row in rows], [row.input for row in rows]
    chrf, copied = sentence_chrf(answers, references), sentence_chrf(sources, references)
    counts, counts_of_copy = bleu_counts(answers, references), bleu_counts(sources, references)
    bleu, bleu_of_copy = (float(corpus_bleu(each[None])[0]) for each in (counts, counts_of_copy))
    n = len(rows)
    return Figures(
        metrics={"chrf": float(chrf.mean()), "bleu": bleu},
        main="chrf",
        higher_is_better=True,
        data=data_digest(rows),
        n=n,
        samples=shown(rows, answers),
        table=[
            Figure("translation: chrF", float(chrf.mean()), n, *interval(chrf), float(copied.mean()), _COPY),
            Figure("translation: BLEU", bleu, n, *interval(counts, statistic=corpus_bleu), bleu_of_copy, _COPY),
            Figure("translation: chrF gained", *_first(paired(chrf, copied), n), 0.0, _COPY),
        ],
    )


def sentence_chrf(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """chrF of each sentence (N,), from 0 to 100."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return np.asarray([metric.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)], float)


def bleu_counts(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """What BLEU counts in each sentence (N, 10): n-grams that are right, all n-grams, both lengths in words."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    scores = [metric.sentence_score(a, [r]) for a, r in zip(answers, references, strict=True)]
    return np.asarray([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores], float)


def corpus_bleu(resamples: Scores) -> Scores:
    """BLEU, from 0 to 100, of each resample of such counts: (R, N, 10) to (R,)."""
    from sacrebleu.metrics import BLEU

    def bleu(counts: list[int]) -> float:
        correct, total, (length, reference_length) = counts[:_ORDERS], counts[_ORDERS : 2 * _ORDERS], counts[-2:]
        return float(BLEU.compute_bleu(correct, total, length, reference_length, smooth_method="exp").score)

    return np.asarray([bleu([int(count) for count in summed]) for summed in resamples.sum(axis=1)], float)


def _first(gain: tuple[float, float, float], n: int) -> tuple[float, int, float, float]:
    """The order of a Figure's fields."""
    return gain[0], n, gain[1], gain[2]
