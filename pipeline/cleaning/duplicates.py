"""Goes in: digests of normalised texts in order. Comes out: for each that was there before, which one it repeats."""

from __future__ import annotations


class Duplicates:
    """The texts met so far, by digest: about 200 bytes of memory for each, however long it is."""

    def __init__(self) -> None:
        self._first: dict[bytes, bytes] = {}  # sha256 of a text → id of the first that had it, both as 32 bytes

    def reason_to_drop(self, digest: bytes, identity: str) -> str | None:
        """ "exact duplicate of ID" if a text of this sha256 was met before, else None; `identity` is its own id, in
        hexadecimal."""
        own = bytes.fromhex(identity)
        first = self._first.setdefault(digest, own)
        return None if first is own else f"exact duplicate of {first.hex()}"
