"""Goes in: what was turned away. Comes out: a table of it, with the reasons and the bytes, to look at.

It is a table of parts, as documents are. They go to a file without a name while a stage works, which no crash can leave
behind; in memory are counts and the first few, so that it does not grow with what was dropped.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cleaning.rejections import Change, Rejection
from pipeline.cleaning.tally import rule_of
from pipeline.columns import table_of
from pipeline.documents import KINDS, Record, part_files, part_name
from pipeline.errors import ConfigurationError, DataError, machine_errors
from pipeline.manifest import commit, read

REJECTIONS, CHANGES = "rejections.parquet", "changes.parquet"
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("raw", pa.large_binary(), nullable=False),
    ]
)
CHANGES_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in Change.__slots__])
STAGES_WITH_QUARANTINE = ("ingest", "clean")
FIRST_SHOWN = 20
_BYTES_AT_ONCE = 8 << 20
_ROWS_AT_ONCE = 4096


class Rejections:
    """What a stage turned away: counted here, and on the disk with all that is known of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.first: list[Rejection] = []
        """The first few, without their bytes."""
        self.by_rule: Counter[str] = Counter()
        self.changes: list[Change] = []
        """A few examples of what rules altered, to look at."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder.parent)  # noqa: SIM115
        self._lengths: list[int] = []  # of the parts in that file
        self._waiting: list[Rejection] = []
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return self.by_rule.total()

    def append(self, rejection: Rejection) -> None:
        """Keep a rejection."""
        if len(self.first) < FIRST_SHOWN:
            self.first.append(replace(rejection, raw=b""))
        self.by_rule[rule_of(rejection.reason)] += 1
        self._waiting.append(rejection)
        self._waiting_bytes += len(rejection.raw)
        if self._waiting_bytes > _BYTES_AT_ONCE or len(self._waiting) >= _ROWS_AT_ONCE:
            self._write()

    def extend(self, rejections: Iterable[Rejection]) -> None:
        """Keep several."""
        for rejection in rejections:
            self.append(rejection)

    def add_part(self, part: bytes) -> None:
        """Keep several that are a file already, as `rejections_file` writes it."""
        self._write()
        file = pq.ParquetFile(pa.BufferReader(part))  # read_table would import pandas
        without_bytes = file.read([name for name in SCHEMA.names if name != "raw"], use_threads=False)
        self.first += [Rejection(**row) for row in without_bytes[: FIRST_SHOWN - len(self.first)].to_pylist()]
        self.by_rule.update(map(rule_of, without_bytes["reason"].to_pylist()))
        self._keep(part)

    def commit(self, folder: Path, stage: str) -> None:
        """Make the artefact, empty or not, with the count of each kind of reason among its facts."""
        self._write()
        if not self._lengths:
            self._keep(rejections_file([]))
        with commit(folder, "quarantine", params={"stage": stage}) as draft:
            self._file.seek(0)
            (draft.path / REJECTIONS).mkdir()
            for number, length in enumerate(self._lengths):
                (draft.path / REJECTIONS / part_name(number)).write_bytes(self._file.read(length))
            if self.changes:
                pq.write_table(_table(self.changes, CHANGES_SCHEMA), draft.path / CHANGES, write_page_checksum=True)
            draft.facts |= {"rejections": len(self), "by_reason": dict(sorted(self.by_rule.items()))}

    def close(self) -> None:
        """Let go of the file; what was not committed is lost."""
        with contextlib.suppress(ValueError, OSError):  # what was not committed need not reach a full disk
            self._file.close()

    def _write(self) -> None:
        if self._waiting:
            self._keep(rejections_file(self._waiting))
            self._waiting, self._waiting_bytes = [], 0

    def _keep(self, part: bytes) -> None:
        with machine_errors(f"writing {self._folder}", self._folder):
            self._file.write(part)
        self._lengths.append(len(part))


def rejections_file(rejections: Sequence[Rejection]) -> bytes:
    """Rejections as a Parquet file, a part of the quarantine's table."""
    sink = io.BytesIO()
    pq.write_table(_table(rejections, SCHEMA), sink, write_page_checksum=True)
    return sink.getvalue()


@contextmanager
def keeping_rejections(folder: Path, *, stage: str) -> Iterator[Rejections]:
    """A list to fill in the block, written when the block ends, or when nothing was left and somebody must look why."""
    with machine_errors(f"writing {folder}", folder):
        rejections = Rejections(folder)
    try:
        try:
            yield rejections
        except DataError:
            rejections.commit(folder, stage)
            raise
        rejections.commit(folder, stage)
    finally:
        rejections.close()


def write_rejections(folder: Path, rejections: Sequence[Rejection], *, stage: str) -> None:
    """Write the quarantine of a stage, empty or not."""
    with keeping_rejections(folder, stage=stage) as kept:
        kept.extend(rejections)


def read_rejections(folder: Path) -> Iterator[Rejection]:
    """What a stage turned away, with the bytes, holding one batch at a time; DataError if the stage did not run."""
    read(folder)
    for part in part_files(folder / REJECTIONS):
        with pq.ParquetFile(part, page_checksum_verification=True, pre_buffer=False) as file:
            for batch in file.iter_batches(256, use_threads=False):
                for row in batch.to_pylist():
                    yield Rejection(**row)


def dropped_record(kind: str, raw: bytes) -> Record | None:
    """The record of this kind that clean turned away with these bytes, a long one without its end; None if there are
    none, as of an erased one."""
    record = KINDS[kind]
    names = fields(record)
    values = raw.decode(errors="ignore").split("\0", len(names) - 1)
    return record(*values) if len(values) == len(names) else None


def listing(root: Path, stage: str, beginning: str, show: int, *, as_json: bool) -> Iterator[str]:
    """A line for each record that a stage turned away for a reason beginning like this; the text of the first `show`.

    Lines come as they are read. As JSON it is one object of lists; a text that is not asked for is not in it.
    """
    if stage not in STAGES_WITH_QUARANTINE:
        raise ConfigurationError(f"{stage}: only {' and '.join(STAGES_WITH_QUARANTINE)} turn records away")
    rows = []
    counts: Counter[str] = Counter()
    for rejection in read_rejections(root / "data" / "quarantine" / stage):
        if not rejection.reason.startswith(beginning):
            continue
        counts[rule_of(rejection.reason)] += 1
        text = rejection.raw.decode(errors="backslashreplace").replace("\0", "\n") if counts.total() <= show else None
        if as_json:
            where = {"source": rejection.source, "name": rejection.name, "offset": rejection.offset}
            rows.append({**where, "reason": rejection.reason, **({} if text is None else {"text": text})})
            continue
        yield f"{rejection.source} {rejection.name}, byte {rejection.offset:,}: {rejection.reason}"
        if text is not None:
            yield "".join(f"    {line}\n" for line in text.splitlines())
    if as_json:
        yield json.dumps({"stage": stage, "by_reason": dict(sorted(counts.items())), "records": rows})
    else:
        yield "; ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "nothing was turned away"


def read_changes(folder: Path) -> list[Change]:
    """The examples of what rules altered; none where there is no such file."""
    if not (folder / CHANGES).exists():
        return []
    rows = pq.read_table(folder / CHANGES, page_checksum_verification=True).to_pylist()
    return [Change(**row) for row in rows]


def _table(records: Sequence[Any], schema: pa.Schema) -> pa.Table:
    columns = [[getattr(record, name) for record in records] for name in schema.names]
    return table_of(columns, schema)
