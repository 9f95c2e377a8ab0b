"""Goes in: a normalised text. Comes out: the reason to drop it if there is nothing to read in it."""

from __future__ import annotations

REASON = "empty"


def reason_to_drop(text: str) -> str | None:
    """ "empty" for a text of nothing but white space, else None."""
    return None if text.strip() else REASON
