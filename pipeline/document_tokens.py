"""Goes in: parts of a table of documents. Comes out: their tokens in shards, training and validation apart.

This is what workers do: nearly all the work of tokenizing. Whoever makes a shard, it is the same: one process, many, or
a cluster write equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cleaning.groups import read_groups
from pipeline.encoder import Encoder
from pipeline.errors import DataError, IntegrityError, is_of_the_machine
from pipeline.shards import BLOCK_TOKENS, token_type, write_shards

SPLITS = ("train", "validation")
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class DocumentTokens:
    """Documents of one split, in order, encoded."""

    shards: list[tuple[Path, int]]
    """The files that hold their tokens, one after the other, and how many each holds; none where there are none."""
    ids: list[str]
    """The documents' ids."""
    sources: list[str]
    """Where each came from."""
    lengths: npt.NDArray[np.int64]
    """Tokens of each, its end-of-text among them."""
    n_bytes: int
    """UTF-8 bytes of all."""
    text_digests: bytes
    """The sha256 of each text, 32 bytes apiece."""


class ShardMaker:
    """Makes shards of some parts of a table, and of others after that."""

    def __init__(self, documents: Path, ranks: Path, validation_fraction: float, folder: Path) -> None:
        """Load the vocabulary once; it serves for every part of the artefact `documents`. Shards go to `folder`."""
        self._fraction, self._folder = validation_fraction, folder
        self._groups = read_groups(documents)
        self._encoder = Encoder(ranks)
        self._type = token_type(self._encoder.encoding.n_vocab)
        self._end = np.array([self._encoder.encoding.eot_token], self._type)

    def __call__(self, asked: tuple[int, Sequence[Path]]) -> tuple[dict[str, DocumentTokens], str]:
        """The documents of some parts by split, and what there is to say about the encoder, if anything.

        The number that comes with the parts must be no others'. IntegrityError if a page is damaged.
        """
        number, parts = asked
        sides = {split: _Side() for split in SPLITS}
        for document_id, source, text in chain.from_iterable(map(_read_part, parts)):
            digest = hashlib.sha256(text).digest()
            try:
                ids = self._encoder(text)
            except DataError as error:
                raise DataError(f"tokenize: document {document_id}: {error}") from error
            side = sides[split_of_digest(self._groups.get(document_id, digest), self._fraction)]
            side.ids.append(document_id)
            side.sources.append(source)
            side.tokens += ids.astype(self._type).data
            side.tokens += self._end.data
            side.lengths.append(len(ids) + 1)
            side.n_bytes += len(text)
            side.digests += digest
        made = {split: self._made(side, shard_stem(self._folder, split, number)) for split, side in sides.items()}
        return made, self._encoder.note

    def _made(self, side: _Side, path: Path) -> DocumentTokens:
        n_tokens = sum(side.lengths)
        side.tokens += bytes(-n_tokens % BLOCK_TOKENS * self._type.itemsize)
        return DocumentTokens(
            shards=write_shards(path, np.frombuffer(side.tokens, self._type), n_tokens),
            ids=side.ids,
            sources=side.sources,
            lengths=np.array(side.lengths, np.int64),
            n_bytes=side.n_bytes,
            text_digests=bytes(side.digests),
        )


@dataclass
class _Side:
    """What has been found for one split so far."""

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    tokens: bytearray = field(default_factory=bytearray)
    n_bytes: int = 0
    digests: bytearray = field(default_factory=bytearray)


def shard_stem(folder: Path, split: str, number: int) -> Path:
    """What the names begin with of one split's shards of the parts of this number."""
    return folder / f"{split}-of-{number}"


def split_of(text: str, validation_fraction: float) -> str:
    """The split of a document: a pure function of its text, so that more documents never move this one."""
    return split_of_digest(hashlib.sha256(text.encode()).digest(), validation_fraction)


def split_of_digest(digest: bytes, validation_fraction: float) -> str:
    """The split of the document whose text, or the text of whose group of near-duplicates, has this sha256."""
    return "validation" if int.from_bytes(digest[:8]) / 2**64 < validation_fraction else "train"


def _read_part(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Id, source and text of each row; the text is never made a string."""
    rows = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            columns = ["id", "source", "text"]
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
                rows += len(batch)
                texts = batch.column("text").view(pa.binary())
                yield from zip(
                    batch.column("id").to_pylist(), batch.column("source").to_pylist(), texts.to_pylist(), strict=True
                )
            metadata = file.metadata
            expected = metadata.num_rows
            in_groups = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    except (pa.ArrowException, OSError, ValueError) as error:
        if is_of_the_machine(error):
            raise
        raise IntegrityError(f"{path}: is damaged; run the stage that makes it again") from error
    # A damaged page header has no checksum, and makes the page look like the end.
    if not rows == expected == in_groups:
        raise IntegrityError(f"{path}: {rows:,} rows found, {expected:,} written")
