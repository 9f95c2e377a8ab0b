"""Goes in: a language model and its training tokens. Comes out: how varied its texts are, and how many of them copied.

Texts are drawn from nothing but the end-of-text before them. distinct-n (Li et al., 2016) is the share of n-grams that
are not repeats, over all texts; self-repetition the share of a text's 4-grams that stood earlier in the same text; the
verbatim figures look for the texts' tokens in the training split, word for word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.evaluations.bootstrap import Scores, interval
from pipeline.evaluations.figures import Figure

if TYPE_CHECKING:
    import tiktoken

    from model.gpt import GPT

TEXTS = 32
VERBATIM_TOKENS = 8
SEARCHED_TOKENS = 20_000_000
_AT_ONCE = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def evaluate(
    model: GPT, encoding: tiktoken.Encoding, training: npt.NDArray[np.integer], *, tokens: int, seed: int
) -> tuple[dict[str, float], list[Figure]]:
    """Figures of TEXTS texts of at most `tokens` tokens each; of a long training split, its beginning is searched."""
    from model.generation import generate

    written = generate(
        model,
        [[encoding.eot_token]] * TEXTS,
        max_new_tokens=tokens,
        end_id=encoding.eot_token,
        temperature=0.7,
        top_k=50,
        seed=range(seed, seed + TEXTS),
    )
    words = [encoding.decode(ids).split() for ids in written]
    searched = training[:SEARCHED_TOKENS]
    copied = np.asarray(verbatim(written, searched, VERBATIM_TOKENS), np.float64)
    repeated = np.asarray([_repeats(text, 4) for text in words], np.float64)
    metrics = {
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "self_repetition": float(_share(repeated[None])[0]),
        "verbatim_overlap": float(_share(copied[None])[0]),
        "longest_verbatim_tokens": float(longest_verbatim(written, searched)),
    }
    table = [
        Figure(
            f"generation: {name}", metrics[key], TEXTS, *interval(counts, statistic=_share), None, "",
            higher_is_better=False,
        )
        for name, key, counts in (
            ("self-repetition", "self_repetition", repeated),
            (f"verbatim {VERBATIM_TOKENS}-grams", "verbatim_overlap", copied),
        )
    ]  # fmt: skip
    return metrics, table


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """The share of n-grams, over all texts, that are not repeats of others; 0 where there is none."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / max(1, len(grams))


def verbatim(texts: Sequence[Sequence[int]], training: npt.NDArray[np.integer], n: int) -> list[tuple[int, int]]:
    """Of each text, how many of its n-grams stand in the training tokens, and how many it has."""
    wanted = sorted({gram for text in texts for gram in _grams(text, n)})
    if not wanted:
        return [(0, 0) for _ in texts]
    hashes = _hashes(np.asarray(wanted, np.uint64), axis=1)
    known: set[tuple[int, ...]] = set()
    by_hash = {int(value): gram for value, gram in zip(hashes, wanted, strict=True)}
    for first in range(0, max(0, len(training) - n + 1), _AT_ONCE):
        piece = np.asarray(training[first : first + _AT_ONCE + n - 1]).astype(np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(piece, n)
        found = _hashes(windows, axis=1)
        for place in np.flatnonzero(np.isin(found, hashes)):
            gram = tuple(int(token) for token in windows[place])
            if by_hash[int(found[place])] == gram:
                known.add(gram)
    return [(sum(gram in known for gram in _grams(text, n)), max(0, len(text) - n + 1)) for text in texts]


def longest_verbatim(texts: Sequence[Sequence[int]], training: npt.NDArray[np.integer]) -> int:
    """The most tokens in a row that a text shares with training: of a run that is found, all shorter ones are too."""
    low, high = 0, max(map(len, texts), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if any(found for found, _ in verbatim(texts, training, middle)):
            low = middle
        else:
            high = middle - 1
    return low


def _repeats(text: Sequence[str], n: int) -> tuple[int, int]:
    """How many n-grams stood earlier in the text, and how many there are."""
    grams = list(_grams(text, n))
    return len(grams) - len(set(grams)), len(grams)


def _share(resamples: Scores) -> Scores:
    """Of (part, whole) of each text: all parts by all wholes, (R, N, 2) to (R,)."""
    parts, wholes = resamples[..., 0].sum(1), resamples[..., 1].sum(1)
    return np.asarray(parts / np.maximum(1, wholes), np.float64)


def _grams(text: Sequence[str] | Sequence[int], n: int) -> Iterator[tuple[str | int, ...]]:
    return (tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def _hashes(windows: npt.NDArray[np.uint64], axis: int) -> npt.NDArray[np.uint64]:
    """One number for each window; that two differ in it proves that they differ, and equal ones are compared."""
    value = np.zeros(windows.shape[0], np.uint64)
    for column in range(windows.shape[axis]):
        value = value * _FACTOR + windows[:, column] + np.uint64(1)
    return value
