"""Goes in: parts of a table of documents. Comes out: the shards that an earlier run made of them, if they still hold.

A shard is kept as a file, and what is known of its documents as a value. Both hold while the parts, the vocabulary, the
encoder and the share that is held out are the same, and no document changes sides with a group of near-duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import columns, document_tokens, encoder, encodings, shards, tokenizer_json
from pipeline.cleaning import groups
from pipeline.columns import Values, from_bytes, table_of, to_bytes
from pipeline.document_tokens import DocumentTokens, shard_stem, split_of_digest
from pipeline.kept_files import KeptFiles, open_kept_files
from pipeline.manifest import Draft
from pipeline.memo import Memo, code_digest, open_memo
from pipeline.shards import shard_path

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("text_digest", pa.binary(32), nullable=False),
    ]
)
# All that decides a shard; code_of would find them out, in a twentieth of the time that 32 MB of text take.
MODULES = (columns, document_tokens, encoder, encodings, groups, shards, tokenizer_json)


class RememberedShards:
    """What earlier runs made of parts. Made by `remembered_shards`."""

    def __init__(self, memo: Memo, files: KeptFiles, group_of: Mapping[str, bytes], validation_fraction: float) -> None:
        self._memo, self._files = memo, files
        self._group_of, self._fraction = group_of, validation_fraction

    def hold(self, parts: bytes) -> bool:
        """Whether something is known of the parts with this digest, and each document would go where it went."""
        [value] = self._memo.known([parts])
        return value is not None and all(
            split_of_digest(self._group_of.get(identity, digest), self._fraction) == split
            for split, made in _of_value(value, Path(), 0).items()
            for identity, digest in zip(made.ids, _in_digests(made.text_digests), strict=True)
        )

    def take(self, draft: Draft, parts: bytes, number: int) -> dict[str, DocumentTokens] | None:
        """What `ShardMaker` would make of these parts under this number, its files in `draft`; None if one of those
        was not kept, or is not what it was."""
        [value] = self._memo.known([parts])
        if value is None:
            return None
        made = _of_value(value, draft.path, number)
        if all(self._files.take(draft, path, digest) for path, digest in _files_of(made, parts)):
            return made
        for path, _ in _files_of(made, parts):  # or whoever makes it again would write into the kept one
            path.unlink(missing_ok=True)
        return None

    def keep(self, draft: Draft, parts: bytes, made: Mapping[str, DocumentTokens]) -> None:
        """Remember what was made of the parts with this digest, its files in `draft`."""
        for path, digest in _files_of(made, parts):
            self._files.keep(draft, path, digest)
        self._memo.add(parts, _to_value(made))


@contextmanager
def remembered_shards(vocabulary: str, group_of: Mapping[str, bytes], fraction: float) -> Iterator[RememberedShards]:
    """The memory of the runs before that had this vocabulary, by its fingerprint, and held out this share."""
    code = code_digest(*MODULES, libraries=("gigatoken", "pyarrow", "tiktoken"))
    key = {"vocabulary": vocabulary, "fraction": fraction, "code": code}
    with open_memo("shards", key) as memo, open_kept_files("shard_files", key) as files:
        yield RememberedShards(memo, files, group_of, fraction)


def _files_of(made: Mapping[str, DocumentTokens], parts: bytes) -> Iterator[tuple[Path, bytes]]:
    """Each shard's path, and the digest that it is kept under."""
    for split, of_split in made.items():
        for position, (path, _) in enumerate(of_split.shards):
            yield path, hashlib.sha256(parts + f"{split} {position}".encode()).digest()


def _to_value(made: Mapping[str, DocumentTokens]) -> bytes:
    """What is known of documents of both splits, but for where the shards lie."""
    columns: list[Values] = [
        [identity for split in made.values() for identity in split.ids],
        [source for split in made.values() for source in split.sources],
        np.concatenate([split.lengths for split in made.values()]),
        [digest for split in made.values() for digest in _in_digests(split.text_digests)],
    ]
    said = {
        name: {
            "documents": len(split.ids),
            "n_bytes": split.n_bytes,
            "shards": [n_tokens for _, n_tokens in split.shards],
        }
        for name, split in made.items()
    }
    return to_bytes(table_of(columns, _SCHEMA), said)


def _of_value(value: bytes, folder: Path, number: int) -> dict[str, DocumentTokens]:
    """The same again, with shards of this number in `folder`."""
    table, said = from_bytes(value)
    made, first = {}, 0
    for split, facts in said.items():
        rows = table.slice(first, facts["documents"])
        first += facts["documents"]
        stem = shard_stem(folder, split, number)
        made[split] = DocumentTokens(
            shards=[(shard_path(stem, position), n_tokens) for position, n_tokens in enumerate(facts["shards"])],
            ids=rows["id"].to_pylist(),
            sources=rows["source"].to_pylist(),
            lengths=np.array(rows["n_tokens"].to_pylist(), np.int64),
            n_bytes=facts["n_bytes"],
            text_digests=b"".join(rows["text_digest"].to_pylist()),
        )
    return made


def _in_digests(digests: bytes) -> Iterator[bytes]:
    return (digests[start : start + 32] for start in range(0, len(digests), 32))
