"""Goes in: the clean documents. Comes out: what is checked of each, and of some the measures of quality.

One pass over the texts serves the expectations and the pictures of the data report. What was found of a part is
remembered by the part's digest, so that of a corpus that grows only what is new is looked at.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.cleaning.quality import RULES
from pipeline.cleaning.words import Batch
from pipeline.columns import from_bytes, table_of, to_bytes
from pipeline.documents import Document, in_batches, part_files, read_records
from pipeline.import_closure import code_of
from pipeline.manifest import Manifest
from pipeline.memo import code_digest, open_memo

# Rules whose ranges are known, so that a maker sees what switching them on would drop.
PICTURED = ("gopher-words", "gopher-word-length", "gopher-alphabetic-words", "gopher-stop-words", "top-2-gram",
            "repeated-line-characters", "fineweb-ended-lines", "fineweb-line-feeds")  # fmt: skip
PICTURED_DOCUMENTS = 20_000
_ASCII_LETTERS = string.ascii_letters.encode()
_SCHEMA = pa.schema(
    [
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("id", "n_characters", "n_letters", "is_nfc", "replacements")
        ),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("quality", pa.binary(), nullable=False),
    ]
)


class Measures:
    """What is found of the documents of an artefact, a part at a time, so that no memory grows with their number."""

    COLUMNS = ("id", "licence", "n_characters", "letters_share", "is_nfc", "replacements")

    def __init__(self, documents: Path, given: Manifest) -> None:
        """Of the artefact in the folder `documents`, that `given` describes."""
        self._documents, self._given = documents, given
        self._quality: list[bytes] = []

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """A value of each of `COLUMNS` for each document in order; IntegrityError if one of their pages is damaged.

        None is a text; of an id they have the first eight bytes, which tell it from any other.
        """
        self._quality = []
        for part in self._parts():
            columns = {name: part[name].to_numpy() for name in part.column_names[:5]}
            shares = columns["n_letters"] / np.maximum(1, columns["n_characters"])
            self._quality += filter(None, part["quality"].to_pylist())
            yield from zip(
                columns["id"].tolist(),
                part["licence"].to_pylist(),
                columns["n_characters"].tolist(),
                shares.tolist(),
                columns["is_nfc"].tolist(),
                columns["replacements"].tolist(),
                strict=True,
            )

    def quality(self) -> dict[str, npt.NDArray[np.float64]]:
        """For each of `PICTURED`, its value for some of the documents whose rows were taken.

        Half of `PICTURED_DOCUMENTS` at least where there are so many: enough for a picture. Which they are is told by
        their ids, which are digests.
        """
        values = np.frombuffer(b"".join(self._quality), np.float64).reshape(-1, len(PICTURED))
        return dict(zip(PICTURED, values.T, strict=True))

    def _parts(self) -> Iterator[pa.Table]:
        # Halved only when the corpus has doubled, or each new document would change which of the old are looked at.
        share = 1.0
        while share * int(self._given.facts["documents"]) > PICTURED_DOCUMENTS:
            share /= 2
        key = {"share": share, "code": code_of(__name__), "libraries": code_digest(libraries=["pyarrow"])}
        with open_memo("document_measures", key) as memo:
            for file in part_files(self._documents / "documents.parquet"):
                digest = bytes.fromhex(self._given.files[file.relative_to(self._documents).as_posix()].sha256)
                [value] = memo.known([digest])
                if value is None:
                    memo.add(digest, value := to_bytes(_of_part(file, share), {}))
                yield from_bytes(value)[0]


def _of_part(file: Path, share: float) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    for documents in in_batches(read_records(file, Document), lambda document: len(document.text)):
        chosen = [number for number, document in enumerate(documents) if int(document.id[:8], 16) < share * 2**32]
        quality = [b""] * len(documents)
        if chosen:
            batch = Batch([documents[number].text for number in chosen])
            measured = np.stack([RULES[name].measure(batch) for name in PICTURED], axis=1).astype(np.float64)
            for number, values in zip(chosen, measured, strict=True):
                quality[number] = values.tobytes()
        rows += (
            (
                int.from_bytes(bytes.fromhex(document.id[:16]), signed=True),
                len(document.text),
                _letters(document.text),
                unicodedata.is_normalized("NFC", document.text),
                document.text.count("\ufffd"),
                document.licence,
                values,
            )
            for document, values in zip(documents, quality, strict=True)
        )
    return table_of([*zip(*rows, strict=True)] or [[] for _ in _SCHEMA], _SCHEMA)


def _letters(text: str) -> int:
    """How many characters are letters; those of ASCII are counted by leaving them out, six times as fast (Zen 5)."""
    content = text.encode()
    others = content.translate(None, _ASCII_LETTERS)
    return len(content) - len(others) + (0 if others.isascii() else sum(map(str.isalpha, others.decode())))
