"""Goes in: data/erasures.txt and a stream of records. Comes out: the stream, without a byte of what was erased.

The file lies in git and DVC watches it, so that an erasure is never forgotten and the next run makes the data anew. It
holds digests only. A short or well-known text can be guessed from its digest, as from any: keep the file as private as
the corpus. A text is recognised by its letters and digits alone, so that copies with another case, spacing, Unicode
form or punctuation are refused too; the rule stands here, apart from the cleaning rules, because digests of an earlier
year must keep their meaning when those change.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Record, learned_texts
from pipeline.errors import ConfigurationError
from pipeline.known_document import KnownDocument

FILE = Path("data/erasures.txt")
REASON = "erased"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_READ = re.compile(r"[\W_]+")

Kept = TypeVar("Kept", bound=Record)


@dataclass(frozen=True)
class Erasures:
    """What ingest must never write again."""

    documents: frozenset[str] = frozenset()
    """Ids of records, whatever kind they are."""
    texts: frozenset[str] = frozenset()
    """`text_digest` of texts."""

    def __or__(self, other: Erasures) -> Erasures:
        return Erasures(self.documents | other.documents, self.texts | other.texts)

    def __bool__(self) -> bool:
        return bool(self.documents or self.texts)

    def cover(self, record: Record) -> bool:
        """Whether the record was erased, by its id or by its text."""
        return record.id in self.documents or (bool(self.texts) and text_digest(learned_text(record)) in self.texts)

    def cover_raw(self, raw: bytes) -> bool:
        """Whether these quarantined bytes are an erased text."""
        return bool(self.texts and raw) and text_digest(raw.decode(errors="ignore")) in self.texts


def learned_text(record: Record) -> str:
    """What a model would learn from the record."""
    return "\n".join(learned_texts(record))


def text_digest(text: str) -> str:
    """sha256 of the text's letters and digits in one form; of the whole text where it has none."""
    bare = _NOT_READ.sub("", unicodedata.normalize("NFKC", text).casefold())
    return hashlib.sha256((bare or text).encode(errors="surrogatepass")).hexdigest()


def load(path: Path = FILE) -> Erasures:
    """Read the file; ConfigurationError if it is gone or a line is not one of ours, lest an erasure be forgotten."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({type(error).__name__}), so erased documents would return; "
            f"restore it with `git checkout -- {path}`"
        ) from error
    found: dict[str, set[str]] = {"document": set(), "text": set()}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, _, digest = line.partition(" ")
        if kind not in found or not _DIGEST.fullmatch(digest):
            raise ConfigurationError(f"{path}, line {number}: expected `document` or `text` and a sha256")
        found[kind].add(digest)
    return Erasures(frozenset(found["document"]), frozenset(found["text"]))


def record(more: Erasures, path: Path = FILE) -> Erasures:
    """Add to the file, sorted, whole or not at all; what it holds then."""
    everything = load(path) | more
    notes = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = sorted([f"document {d}" for d in everything.documents] + [f"text {d}" for d in everything.texts])
    partial = path.with_name(f".partial-{path.name}-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in [*notes, *lines]))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return everything


def honoured(
    records: Iterable[Kept | Rejection], erasures: Erasures, forget: Callable[[str], None] = lambda _: None
) -> Iterator[Kept | Rejection]:
    """The stream with every erased record turned away, and with no bytes left in what was turned away already.

    `forget` is told each text that was erased, for whoever may have kept it.
    """
    for found in records:
        if isinstance(found, KnownDocument):  # it was looked at in an earlier run, with the same erasures
            yield found
        elif isinstance(found, Rejection):
            covered = erasures.cover_raw(found.raw)
            yield Rejection(found.source, REASON, 0, REASON, text_digest("")) if covered else found
        elif erasures and erasures.cover(found):
            for text in learned_texts(found):
                forget(text)
            # A name can be as private as the text, so the id stands in its place, as it does in clean's quarantine.
            yield Rejection(f"{type(found).__name__.lower()}s", found.id, 0, REASON, found.id)
        else:
            yield found
