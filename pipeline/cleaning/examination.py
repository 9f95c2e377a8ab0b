"""Goes in: records of one kind, batch by batch. Comes out: each cleaned, or the reason to drop it; and the counts.

A rule sees a record in this order: repair, normalise, empty, personal data, C4's lines, exact duplicate, language,
quality, contamination. The last four are for documents; an example is kept in whatever language and however short.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pipeline.cleaning import c4, empty, personal_data, secrets
from pipeline.cleaning.duplicates import Duplicates
from pipeline.cleaning.normalise import normalise
from pipeline.cleaning.personal_data import Findings
from pipeline.cleaning.rejections import Change
from pipeline.cleaning.repair import repair
from pipeline.cleaning.tally import Tally
from pipeline.documents import LEARNED, Document
from pipeline.errors import DataError
from pipeline.memo import Memo, code_digest, open_memo

if TYPE_CHECKING:
    from pipeline.cleaning.judgements import Judge
    from pipeline.stages.clean import Params

_MAY_BE_EMPTY = {"input", "passage"}
_CHANGES_KEPT = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record as it came, as it leaves, and why it does not, if it does not."""

    record: Any
    cleaned: Any
    text: str
    reason: str | None
    bands: bytes = b""
    """What near-duplicates are known by; empty where nobody asks, or the record is dropped before."""


class Examination:
    """The rules of params, with what they remember of the records they saw."""

    def __init__(self, params: Params, name: str, kind: type[Any], findings: Memo, judge: Judge | None = None) -> None:
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self.changes: list[Change] = []
        self._params = params
        self._name = name
        self._learned = LEARNED[kind]
        self._of_documents = kind is Document
        self._findings, self._judge = findings, judge
        self._duplicates = Duplicates()
        self._policies = {key: getattr(params, key) for key in personal_data.KINDS}
        self._failing: dict[str, int] = {}

    def learned(self, record: Any) -> str:
        """What a model would learn from a record, as one text."""
        return "\0".join(getattr(record, name) for name in self._learned)

    def source_of(self, record: Any) -> str:
        """Whose count a record belongs to: its source, or the name of its kind."""
        return record.source if self._of_documents else self._name

    def examine(self, records: Sequence[Any]) -> list[Verdict]:
        """What becomes of each record, in order."""
        texts = [self._spelled(record, name) for record in records for name in self._learned]
        findings = iter(self._personal_data(texts))
        verdicts = [self._alone(record, {name: next(findings) for name in self._learned}) for record in records]
        if self._judge:
            left = [place for place, verdict in enumerate(verdicts) if verdict.reason is None]
            judgements = self._judge.judge([verdicts[place].text for place in left])
            for place, said in zip(left, judgements, strict=True):
                alone = verdicts[place]
                verdicts[place] = Verdict(alone.record, alone.cleaned, alone.text, said.reason, said.bands)
        for verdict in verdicts:
            tally = self.tallies[self.source_of(verdict.record)]
            tally.enters(self.learned(verdict.record))
            if verdict.reason is None:
                tally.leaves(verdict.text)
            else:
                tally.is_dropped(verdict.reason)
        return verdicts

    def stop_if_too_personal(self) -> None:
        """Raise DataError if a kind that must not occur was found, or personal data in too many of the records."""
        for key, count in self._failing.items():
            raise DataError(
                f"clean: {count:,} of the {self._name} hold what is looked for as {key}, and clean.{key} is fail; "
                "look at them in data/quarantine/clean, then take them out, or set it to mask or drop"
            )
        met = sum(tally.records_in for tally in self.tallies.values())
        found = sum(tally.with_personal_data for tally in self.tallies.values())
        limit = self._params.maximum_personal_data_share
        if found > limit * met:
            raise DataError(
                f"clean: {found:,} of {met:,} {self._name} hold personal data, and clean.maximum_personal_data_share "
                f"is {limit:g}; look at the source, or raise the limit"
            )

    def _spelled(self, record: Any, name: str) -> str:
        """A text of the record in our spelling: cheap enough to be worked out anew in each run."""
        tally = self.tallies[self.source_of(record)]
        text: str = getattr(record, name)
        if self._params.repair_unicode:
            text = self._changed("repair_unicode", record, text, repair(text), tally)
        return self._changed("normalise", record, text, normalise(text), tally)

    def _personal_data(self, texts: Sequence[str]) -> list[Findings]:
        """What is found in each text, looked up where an earlier run has found it."""

        def examined(new: list[int]) -> list[bytes]:
            return [personal_data.to_bytes(personal_data.examine(texts[place], self._policies)) for place in new]

        values = self._findings.values([hashlib.sha256(text.encode()).digest() for text in texts], examined)
        return [personal_data.from_bytes(value, text) for value, text in zip(values, texts, strict=True)]

    def _alone(self, record: Any, findings_of: Mapping[str, Findings]) -> Verdict:
        """The rules that need no more than the record itself, and what was seen before it."""
        tally = self.tallies[self.source_of(record)]
        reason: str | None = None
        texts: dict[str, str] = {}
        found: set[str] = set()
        for name, findings in findings_of.items():
            if name not in _MAY_BE_EMPTY:
                reason = reason or empty.reason_to_drop(findings.text)
            tally.personal_data.update(findings.counts)
            found.update(findings.counts)
            for key in findings.masked:
                tally.changed[f"masked {key}"] += 1
            if findings.fails:
                self._failing[findings.fails] = self._failing.get(findings.fails, 0) + 1
            reason = reason or findings.reason
            texts[name] = findings.text
        tally.with_personal_data += bool(found)
        if self._of_documents and reason is None and c4.LINES in self._params.quality:
            kept = c4.kept_lines(texts["text"])
            texts["text"] = self._changed(c4.LINES, record, texts["text"], kept, tally)
            reason = None if kept else f"{c4.LINES}: no line is left"
        learned = "\0".join(texts.values())
        if reason is None and self._params.drop_duplicates:
            reason = self._duplicates.reason_to_drop(learned, record.id)
        unchanged = all(getattr(record, name) == text for name, text in texts.items())
        return Verdict(record, record if unchanged else replace(record, **texts), learned, reason)

    def _changed(self, rule: str, record: Any, before: str, after: str, tally: Tally) -> str:
        """The text after a rule, counted if it differs; the first few of each rule are kept to look at."""
        if after != before:
            tally.changed[rule] += 1
            if tally.changed[rule] <= _CHANGES_KEPT and sum(c.rule == rule for c in self.changes) < _CHANGES_KEPT:
                self.changes.append(Change.of(self._name, record.id, rule, before, after))
        return after


def in_batches(records: Iterator[Any], characters: int = 1 << 19, count: int = 4096) -> Iterator[list[Any]]:
    """Records in lists of about so many characters, and at most so many records; a long one may stand alone."""
    batch: list[Any] = []
    size = 0
    names: tuple[str, ...] = ()
    for record in records:
        names = names or tuple(field.name for field in fields(record))
        batch.append(record)
        size += sum([len(getattr(record, name)) for name in names])
        if size >= characters or len(batch) >= count:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def remembered_findings(params: Params) -> Iterator[Memo]:
    """The personal data that earlier runs found, by the digest of the text; valid while policies and code are."""
    policies = {key: getattr(params, key) for key in personal_data.KINDS}
    key = {"policies": policies, "code": code_digest(personal_data, secrets)}
    with open_memo("personal_data", key) as memo:
        yield memo
