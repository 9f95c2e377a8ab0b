"""What a model needs for each document is added up some documents at a time."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluations.perplexity import sums_of_documents


@pytest.mark.parametrize("at_once", [1, 2, 5, 900, 1 << 20])
def test_sums_of_documents_do_not_depend_on_how_many_come_at_once(at_once: int) -> None:
    """To the last bit they are those of all tokens together, of which no more are asked for than one document adds."""
    lengths = np.array([3, 1, 1, 700, 2, 130, 1])
    first_tokens, values = np.cumsum(lengths) - lengths, np.random.default_rng(0).normal(size=lengths.sum())
    asked = []

    def figures(some: slice) -> np.ndarray:
        asked.append(some.stop - some.start)
        return values[some]

    sums = sums_of_documents(first_tokens, len(values), figures, at_once)
    assert sums.tolist() == np.add.reduceat(values, first_tokens).tolist()
    assert max(asked) < at_once + 700 and sum(asked) == len(values)
