"""A translation is scored as sacrebleu scores it, and copying the source is what it has to beat."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from pipeline.evaluations.translation import bleu_counts, corpus_bleu, sentence_chrf

REFERENCES = ["Der alte Mann sieht einen roten Hut.", "Die Frau kauft heute ein Buch.", "Das Kind findet den Ball."]
ANSWERS = ["Der alte Mann sieht einen roten Ball.", "Die Frau kauft ein Buch.", "Das Kind findet den Ball."]


def test_bleu_of_the_counts_is_that_of_the_whole_set() -> None:
    """Counts added over the sentences give the corpus BLEU that sacrebleu works out from the texts."""
    expected = BLEU().corpus_score(ANSWERS, [REFERENCES]).score
    assert corpus_bleu(bleu_counts(ANSWERS, REFERENCES)[None])[0] == pytest.approx(expected)


def test_a_resample_is_a_set_of_its_own() -> None:
    """A sentence drawn twice counts twice: the third one alone is perfect."""
    counts = bleu_counts(ANSWERS, REFERENCES)
    resamples = np.stack([counts[[0, 0, 1]], counts[[2, 2, 2]]])
    expected = BLEU().corpus_score([ANSWERS[i] for i in (0, 0, 1)], [[REFERENCES[i] for i in (0, 0, 1)]]).score
    assert corpus_bleu(resamples) == pytest.approx([expected, 100.0])


def test_chrf_is_100_for_what_is_right_and_little_for_another_language() -> None:
    """The source given back shares few letters with the reference."""
    right, copied = sentence_chrf([REFERENCES[0], "The old man sees a red hat."], [REFERENCES[0]] * 2)
    assert right == pytest.approx(100.0)
    assert copied < 30
