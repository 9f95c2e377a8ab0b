"""Goes in: the validation split, and the sources that count. Comes out: how well a model reads windows all over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encodings import RANKS_FILE, bytes_of_tokens, load_encoding
from pipeline.manifest import Manifest
from pipeline.shards import map_split, read_index

if TYPE_CHECKING:
    from model.batches import Tokens
    from model.gpt import GPT


class HeldOut:
    """Windows of held-out text, evenly spaced, so that no source is looked at alone for lying first."""

    def __init__(self, tokens: Path, manifest: Manifest, *, windows: int | None, sources: Sequence[str] = ()) -> None:
        """So many windows, None for all, of the documents of these sources.

        They are of all sources where none is named, or where those named have no document in the validation split.
        """
        from model.mixtures import Pieces

        facts = manifest.facts
        self._start_id, self._windows = int(facts["end_of_text"]), windows
        self._bytes = bytes_of_tokens(load_encoding(tokens / RANKS_FILE), int(facts["vocab_size"]))
        self._tokens: Tokens = map_split(tokens, "validation", facts)
        if sources:
            index = read_index(tokens, "validation", ["source", "first_token", "n_tokens"])
            rows = index.filter(pc.is_in(index["source"], pa.array(sources, pa.string())))
            if len(rows):
                self._tokens = Pieces(self._tokens, rows["first_token"].to_numpy(), rows["n_tokens"].to_numpy())

    def look(self, model: GPT) -> Mapping[str, float]:
        """validation_loss in nats per token, perplexity, and bits_per_byte of the text of these windows."""
        from model.scoring import scored_tokens, validation_loss

        score = validation_loss(model, self._tokens, start_id=self._start_id, max_windows=self._windows)
        looked_at = scored_tokens(self._tokens, model.config.context_length, self._windows)
        n_bytes = sum(int(self._bytes[ids].sum()) for ids in looked_at)
        return {
            "validation_loss": score.loss,
            "perplexity": score.perplexity,
            "bits_per_byte": score.bits_per_byte(max(1, n_bytes)),
        }
