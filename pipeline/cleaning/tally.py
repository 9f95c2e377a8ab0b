"""Goes in: what became of each record. Comes out: counts by source, fit for a manifest; never a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def rule_of(reason: str) -> str:
    """The rule that gave a reason: "gopher-words: 12 words, wanted at least 50" is of gopher-words."""
    return reason.split(":")[0].split(" of ")[0]


def length_bin(characters: int) -> str:
    """The power of two at or below a length, as text, because it is a key in JSON: 0, 1, 2, 4, 8, …"""
    return str(1 << characters.bit_length() - 1) if characters else "0"


@dataclass
class Tally:
    """Records and bytes of one source: in, out, dropped by rule, changed by rule, and personal data found."""

    records_in: int = 0
    bytes_in: int = 0
    records_out: int = 0
    bytes_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    with_personal_data: int = 0
    personal_data: Counter[str] = field(default_factory=Counter)
    lengths_in: Counter[str] = field(default_factory=Counter)
    lengths_out: Counter[str] = field(default_factory=Counter)

    def enters(self, text: str) -> None:
        """A record comes in."""
        self.records_in += 1
        self.bytes_in += len(text.encode())
        self.lengths_in[length_bin(len(text))] += 1

    def leaves(self, text: str) -> None:
        """A record is kept."""
        self.records_out += 1
        self.bytes_out += len(text.encode())
        self.lengths_out[length_bin(len(text))] += 1

    def is_dropped(self, reason: str, instead_of: str | None = None) -> None:
        """A record is dropped; it may be that it was for another reason before."""
        self.dropped[rule_of(reason)] += 1
        if instead_of is not None:
            self.dropped[rule_of(instead_of)] -= 1

    def comes_back(self, n_bytes: int, n_characters: int, reason: str) -> None:
        """A record that had left is dropped after all."""
        self.records_out -= 1
        self.bytes_out -= n_bytes
        self.lengths_out[length_bin(n_characters)] -= 1
        self.is_dropped(reason)

    def add(self, other: Tally) -> None:
        """The counts of other records as well."""
        for name in self.__dataclass_fields__:
            own = getattr(self, name)
            if isinstance(own, Counter):
                own.update(getattr(other, name))
            else:
                setattr(self, name, own + getattr(other, name))

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Tally:
        """The counts again that `facts` gave."""
        tally = cls()
        for name, value in facts.items():
            setattr(tally, name, Counter(value) if isinstance(value, dict) else value)
        return tally

    def facts(self) -> dict[str, Any]:
        """The counts that are not zero, sorted, for a manifest."""

        def sorted_counts(counts: Counter[str]) -> dict[str, int]:
            order = sorted(counts, key=lambda key: (int(key), "") if key.isdigit() else (0, key))
            return {key: counts[key] for key in order if counts[key]}

        return {
            "records_in": self.records_in,
            "bytes_in": self.bytes_in,
            "records_out": self.records_out,
            "bytes_out": self.bytes_out,
            "dropped": sorted_counts(self.dropped),
            "changed": sorted_counts(self.changed),
            "with_personal_data": self.with_personal_data,
            "personal_data": sorted_counts(self.personal_data),
            "lengths_in": sorted_counts(self.lengths_in),
            "lengths_out": sorted_counts(self.lengths_out),
        }
