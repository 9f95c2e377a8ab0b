"""Goes in: a language model and the validation split. Comes out: perplexity, bits per byte by source, continuations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.encodings import RANKS_FILE, bytes_of_tokens, encode, load_encoding
from pipeline.evaluations.bootstrap import Scores, interval
from pipeline.evaluations.figures import Figure, Figures
from pipeline.manifest import Manifest
from pipeline.shards import map_split, read_index

if TYPE_CHECKING:
    from model.gpt import GPT

_UNIGRAMS = "how often each token stands in training"
_COUNTED_AT_ONCE = 1 << 24


def evaluate(
    model: GPT, tokens: Path, manifest: Manifest, *, prompts: tuple[str, ...], sample_tokens: int, seed: int
) -> Figures:
    """Score every token of the validation split once, with at least half a context before all but the first.

    End-of-text tokens count in the nats but have no bytes, so bits per byte pays for the ends of documents too. Its
    interval is that of documents drawn anew; its baseline knows the frequencies of the tokens and nothing else.
    """
    from model.generation import generate
    from model.scoring import TokenScore, token_nats

    facts = manifest.facts
    n_bytes = int(facts["n_bytes"]["validation"])
    encoding = load_encoding(tokens / RANKS_FILE)
    vocab_size = int(facts["vocab_size"])
    validation = map_split(tokens, "validation", facts)
    training = map_split(tokens, "train", facts)
    nats = token_nats(model, validation, start_id=encoding.eot_token)
    score = TokenScore(float(nats.sum(dtype=np.float64)), len(validation))
    counts = np.ones(vocab_size, np.int64)
    for first in range(0, len(training), _COUNTED_AT_ONCE):
        counts += np.bincount(np.asarray(training[first : first + _COUNTED_AT_ONCE]), minlength=vocab_size)
    unigram_nats, n_bytes_of = -np.log(counts / counts.sum()), bytes_of_tokens(encoding, vocab_size)

    index = read_index(tokens, "validation", ["source", "first_token"])
    sources, first_tokens = np.asarray(index["source"].to_pylist()), index["first_token"].to_numpy()
    by_document = np.stack(
        [
            sums_of_documents(first_tokens, len(validation), lambda some: nats[some].astype(np.float64)),
            sums_of_documents(first_tokens, len(validation), lambda some: n_bytes_of[validation[some]]),
        ],
        -1,
    )
    unigrams_by_document = sums_of_documents(first_tokens, len(validation), lambda some: unigram_nats[validation[some]])
    table = []
    for source in ["", *sorted(set(sources))]:
        chosen = (sources == source) | (source == "")
        mine, unigrams = by_document[chosen], float(unigrams_by_document[chosen].sum())
        low, high = interval(mine, statistic=_bits_per_byte)
        bytes_of_source = max(1.0, float(mine[:, 1].sum()))
        table.append(
            Figure(
                f"text: bits per byte of {source}" if source else "text: bits per byte",
                float(_bits_per_byte(mine[None])[0]), len(mine), low, high,
                unigrams / np.log(2) / bytes_of_source, _UNIGRAMS, higher_is_better=False,
            )
        )  # fmt: skip
    asked = [[encoding.eot_token, *encode(encoding, prompt).tolist()] for prompt in prompts]
    written = generate(
        model, asked, max_new_tokens=sample_tokens, end_id=encoding.eot_token, temperature=0.7, top_k=50, seed=seed
    )
    return Figures(
        metrics={
            "bits_per_byte": score.bits_per_byte(n_bytes),
            "perplexity": score.perplexity,
            "validation_loss": score.loss,
        },
        main="bits_per_byte",
        higher_is_better=False,
        data=str(facts["texts_digest"]["validation"]),
        n=score.tokens,
        samples=[
            {"prompt": prompt, "response": encoding.decode(ids)} for prompt, ids in zip(prompts, written, strict=True)
        ],
        table=table,
    )


def sums_of_documents(
    first_tokens: npt.NDArray[np.int64], n_tokens: int, figures: Callable[[slice], Scores], at_once: int = 1 << 20
) -> Scores:
    """The sum of a figure over the tokens of each document, which is asked for some documents' tokens at a time."""
    sums, first = [], 0
    while first < len(first_tokens):
        start = first_tokens[first]
        # At least one document, however long.
        after = max(first + 1, int(np.searchsorted(first_tokens, start + at_once)))
        end = first_tokens[after] if after < len(first_tokens) else n_tokens
        sums.append(np.add.reduceat(figures(slice(start, end)), first_tokens[first:after] - start))
        first = after
    return np.concatenate(sums)


def _bits_per_byte(resamples: Scores) -> Scores:
    """Of (nats, bytes) of each document: all bits by all bytes, (R, N, 2) to (R,)."""
    summed = resamples.sum(axis=1)
    return np.asarray(summed[:, 0] / np.log(2) / np.maximum(1, summed[:, 1]), np.float64)
