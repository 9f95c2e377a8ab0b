"""Goes in: what was found of a part of a table. Comes out: the same in columns without the texts, to be remembered.

What all parts together say is worked out from these, see pipeline/cleaning/repeats.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.cleaning.examination import Examination, Examined
from pipeline.cleaning.rejections import Change
from pipeline.cleaning.tally import Tally
from pipeline.columns import from_bytes, table_of, to_bytes
from pipeline.documents import Message

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("n_characters", pa.int64(), nullable=False),
        pa.field("spelled", pa.binary(), nullable=False),
        pa.field("digest", pa.binary(32), nullable=False),
        pa.field("bands", pa.binary(), nullable=False),
        pa.field("stands", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
Repeats = dict[int, str]
"""For some rows of a part, which other record each one repeats, as a reason to drop it."""


@dataclass(frozen=True)
class Outcome:
    """What the rules found of the records of a part, each on its own."""

    rows: pa.Table
    """A row for each record, in order: its id and source, and of a message its label; of its cleaned text the sizes,
    the sha256 and the bands of near-duplicates; of its texts in our spelling the digests; whether it stands, and the
    reason to drop it or nothing."""
    tallies: dict[str, Tally]
    changes: list[Change]
    failing: dict[str, int]

    @classmethod
    def of(cls, examined: Examined, rules: Examination) -> Outcome:
        """The outcome of an examination."""
        verdicts = examined.verdicts
        texts = [verdict.text.encode() for verdict in verdicts]
        columns = [
            [verdict.record.id for verdict in verdicts],
            [rules.source_of(verdict.record) for verdict in verdicts],
            [verdict.record.label if isinstance(verdict.record, Message) else "" for verdict in verdicts],
            [len(text) for text in texts],
            [len(verdict.text) for verdict in verdicts],
            examined.spelled,
            [verdict.digest for verdict in verdicts],
            [verdict.bands for verdict in verdicts],
            [verdict.stands for verdict in verdicts],
            [verdict.reason or "" for verdict in verdicts],
        ]
        rows = table_of(columns, _SCHEMA)
        changes = [change for rule in sorted(examined.changes) for change in examined.changes[rule]]
        return cls(rows, dict(examined.tallies), changes, dict(examined.failing))

    def to_bytes(self) -> bytes:
        """The outcome, for a memo."""
        said = {
            "tallies": {source: tally.facts() for source, tally in self.tallies.items()},
            "changes": [asdict(change) for change in self.changes],
            "failing": self.failing,
        }
        return to_bytes(self.rows, said)

    @classmethod
    def from_bytes(cls, value: bytes) -> Outcome:
        """An outcome again."""
        rows, said = from_bytes(value)
        tallies = {source: Tally.of(facts) for source, facts in said["tallies"].items()}
        return cls(rows, tallies, [Change(**change) for change in said["changes"]], said["failing"])

    def is_kept(self, repeats: Repeats) -> list[bool]:
        """For each row whether its record stays, when these are the repeated ones."""
        return [reason is None and row not in repeats for row, reason in enumerate(self.reasons)]

    @property
    def reasons(self) -> list[str | None]:
        """For each row the reason to drop it, if there is one in the record itself."""
        return [reason or None for reason in self.rows["reason"].to_pylist()]

    @property
    def spelled(self) -> list[bytes]:
        """The digests of all texts in our spelling."""
        whole = b"".join(self.rows["spelled"].to_pylist())
        return [whole[start : start + 32] for start in range(0, len(whole), 32)]

    @property
    def standing(self) -> list[bytes]:
        """The digests of the cleaned texts of records that stand."""
        digests: list[bytes] = self.rows.filter(self.rows["stands"])["digest"].to_pylist()
        return digests
