"""Goes in: an instructed model, questions, a base of passages. Comes out: answers that cite a passage, and how good.

The model reads the best passages one by one, and the answer of which it is surest counts, with the passage that it was
read from as its citation: a reader for each passage, as of Karpukhin et al. (2020), for a small model that could not
hold several apart. A citation is supported if the answer stands in the passage that is cited.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.evaluations.answering import SHOWN_SAMPLES, Asking, answer, data_digest, mean_nats
from pipeline.evaluations.bootstrap import interval, paired
from pipeline.evaluations.figures import Figure, Figures
from pipeline.evaluations.retrieval import Retriever, retrieve
from pipeline.evaluations.summarisation import first_sentence
from pipeline.instruction_rows import InstructionRow


def evaluate(
    asking: Asking, rows: Sequence[InstructionRow], passages: Sequence[str], *, retriever: Retriever, read: int
) -> Figures:
    """Find passages for every question, read the best, answer, cite; the baseline gives the best's first sentence."""
    read = min(read, len(passages))
    found = retrieve(retriever, passages, [row.instruction for row in rows], [row.input for row in rows], read)
    candidates = [
        replace(row, input=passages[place]) for row, best in zip(rows, found.best, strict=True) for place in best
    ]
    answers = answer(asking, candidates)
    nats = np.asarray(mean_nats(asking, candidates, answers) if read > 1 else [0.0] * len(rows)).reshape(-1, read)
    chosen = [number * read + int(nats[number].argmin()) for number in range(len(rows))]
    given, cited = [answers[i] for i in chosen], [candidates[i].input for i in chosen]
    leads = [first_sentence(passages[best[0]]) for best in found.best]
    expected = [row.response for row in rows]
    f1, f1_of_leads = ([token_f1(a, e) for a, e in zip(some, expected, strict=True)] for some in (given, leads))
    exact, exact_leads = (
        [_words(a) == _words(e) for a, e in zip(some, expected, strict=True)] for some in (given, leads)
    )
    supported = [bool(a) and a in passage for a, passage in zip(given, cited, strict=True)]
    n, lead = len(rows), "the best passage's first sentence"
    of_retrieval = found.figures("retrieval")
    gain = paired(f1, f1_of_leads)
    number = {passage: place + 1 for place, passage in enumerate(passages)}
    return Figures(
        metrics={
            "answer_exact_match": float(np.mean(exact)),
            "answer_f1": float(np.mean(f1)),
            "supported_citations": float(np.mean(supported)),
            **{each.name.split(": ")[1].lower().replace("@", "_at_"): each.value for each in of_retrieval},
        },
        main="answer_f1",
        higher_is_better=True,
        data=data_digest(rows),
        n=n,
        samples=[
            {
                "prompt": rows[i].instruction,
                "response": f"{given[i]} [{number[cited[i]]}]",
                "expected": f"{expected[i]} [{number[rows[i].input]}]",
                "cited": cited[i],
            }
            for i in range(0, n, max(1, n // SHOWN_SAMPLES))
        ][:SHOWN_SAMPLES],
        table=[
            *of_retrieval,
            Figure(
                "answers: exact match", float(np.mean(exact)), n, *interval(exact), float(np.mean(exact_leads)), lead
            ),
            Figure("answers: F1", float(np.mean(f1)), n, *interval(f1), float(np.mean(f1_of_leads)), lead),
            Figure("answers: F1 gained", gain[0], n, gain[1], gain[2], 0.0, lead),
            Figure("answers: supported citations", float(np.mean(supported)), n, *interval(supported), None, ""),
        ],
    )


def token_f1(given: str, expected: str) -> float:
    """The F-measure of the words that both have, without case, articles and punctuation (Rajpurkar et al., 2016)."""
    a, b = _words(given), _words(expected)
    shared = sum((Counter(a) & Counter(b)).values())
    return 2 * shared / (len(a) + len(b)) if a or b else 1.0


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in ("a", "an", "the")]
