"""Goes in: the clean documents. Comes out: what is checked of each in columns, and of some the measures of quality.

One pass over the texts serves the expectations and the pictures of the data report. What was found of a part is
remembered by the part's digest, so that of a corpus that grows only what is new is looked at.
"""

from __future__ import annotations

import string
import unicodedata
from dataclasses import dataclass
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
# As small as they can be, for there is one of each for every document.
_NUMBERS = {
    "id": np.int64,
    "n_characters": np.int32,
    "n_letters": np.int32,
    "is_nfc": np.bool_,
    "replacements": np.int32,
}
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int64(), nullable=False) for name in _NUMBERS),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("quality", pa.binary(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Measures:
    """What was found of the documents, in their order."""

    columns: dict[str, Any]
    """By name, a value for each document and no text: `id`, `licence`, `n_characters`, `letters_share`, `is_nfc` and
    `replacements`. Some thirty bytes a document, however many there are: of an id the first eight bytes, which tell it
    from any other."""
    quality: dict[str, npt.NDArray[np.float64]]
    """For each of `PICTURED`, its value for some documents, half of `PICTURED_DOCUMENTS` at least where there are so
    many: enough for a picture. Which they are is told by their ids, which are digests."""


def measure(documents: Path, given: Manifest) -> Measures:
    """Look at every document of the artefact that `given` describes; IntegrityError if one of its pages is damaged."""
    import pandas as pd

    # Halved only when the corpus has doubled, or each new document would change which of the old ones are looked at.
    share = 1.0
    while share * int(given.facts["documents"]) > PICTURED_DOCUMENTS:
        share /= 2
    key = {"share": share, "code": code_of(__name__), "libraries": code_digest(libraries=["pyarrow"])}
    licences: dict[str, int] = {}
    licence_of: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    quality: list[bytes] = []
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _NUMBERS}
    with open_memo("document_measures", key) as memo:
        for file in part_files(documents / "documents.parquet"):
            digest = bytes.fromhex(given.files[file.relative_to(documents).as_posix()].sha256)
            [value] = memo.known([digest])
            if value is None:
                memo.add(digest, value := to_bytes(_of_part(file, share), {}))
            rows, _ = from_bytes(value)
            numbers = [licences.setdefault(licence, len(licences)) for licence in rows["licence"].to_pylist()]
            licence_of.append(np.array(numbers, np.int32))
            quality += filter(None, rows["quality"].to_pylist())
            for name, of_parts in parts.items():
                of_parts.append(rows[name].to_numpy().astype(_NUMBERS[name]))
    found = {name: np.concatenate([np.zeros(0, kind), *parts.pop(name)]) for name, kind in _NUMBERS.items()}
    letters_share = found.pop("n_letters") / np.maximum(1, found["n_characters"])
    values = np.frombuffer(b"".join(quality), np.float64).reshape(-1, len(PICTURED))
    licence = pd.Categorical.from_codes(np.concatenate(licence_of), list(licences))
    return Measures(
        {**found, "letters_share": letters_share, "licence": licence}, dict(zip(PICTURED, values.T, strict=True))
    )


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
