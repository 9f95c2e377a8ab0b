"""Goes in: how many records a stage read, wrote and quarantined. Comes out: nothing, or an error if one is missing."""

from __future__ import annotations


def balance(stage: str, kind: str, *, read: int, written: int, quarantined: int = 0) -> None:
    """AssertionError, a bug of ours, unless every record that was read was written or quarantined."""
    if read != written + quarantined:
        raise AssertionError(f"{stage}: {read:,} {kind} read, but {written:,} written and {quarantined:,} quarantined")
