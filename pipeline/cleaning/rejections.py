"""Goes in: bytes that a source or a rule turned away. Comes out: a Rejection, fit for the quarantine and for a log.

A Change is its sister: what a rule altered in a record that stays.

A reason never quotes the record: a person's text stays in `raw`, which only the quarantine folder sees.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

RAW_LIMIT_BYTES = 1 << 20
EXCERPT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Rejection:
    """One record that was turned away: where it stood, why, and its bytes.

    `sha256` is the digest of the whole file (or, for a record without one, of the record), `offset` the record's first
    byte in that file. `raw` holds at most RAW_LIMIT_BYTES of the record; it is empty where nothing was read.
    """

    source: str
    name: str
    offset: int
    reason: str
    sha256: str
    raw: bytes = field(default=b"", repr=False)

    @classmethod
    def of(
        cls, *, source: str, name: str, reason: str, raw: bytes = b"", sha256: str | None = None, offset: int = 0
    ) -> Rejection:
        """A rejection whose raw bytes are cut to what the quarantine keeps; without `sha256`, it is that of `raw`."""
        digest = hashlib.sha256(raw).hexdigest() if sha256 is None else sha256
        return cls(source, name, offset, reason, digest, raw[:RAW_LIMIT_BYTES])


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule did to one record, around the first place where it did something; for people to look at."""

    source: str
    name: str
    rule: str
    before: str = field(repr=False)
    after: str = field(repr=False)

    @classmethod
    def of(cls, source: str, name: str, rule: str, before: str, after: str) -> Change:
        """A change, cut to EXCERPT_CHARACTERS from a little before the first difference on."""
        pairs = enumerate(zip(before, after, strict=False))
        first = next((place for place, (one, other) in pairs if one != other), min(len(before), len(after)))
        start = max(0, first - EXCERPT_CHARACTERS // 4)
        end = start + EXCERPT_CHARACTERS
        return cls(source, name, rule, before[start:end], after[start:end])
