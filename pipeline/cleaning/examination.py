"""Goes in: the records of a part. Comes out: each cleaned, or the reason to drop it; and the counts.

A rule sees a record in this order: repair, normalise, empty, personal data, C4's lines, language, quality,
contamination. The lines, language and quality matter for documents only; an example is kept in whatever language and
however short. None of
them looks at another record, so what is found of a part holds in every corpus that has it, whoever finds it.

What costs most, personal data and what is judged by words, needs no more than a text, and is looked up under the text's
digest, since an earlier run may have found it out. The rest is done anew.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

from pipeline.cleaning import c4, empty, personal_data
from pipeline.cleaning.judgements import Judgement
from pipeline.cleaning.normalise import normalise
from pipeline.cleaning.personal_data import Findings, Policy
from pipeline.cleaning.rejections import Change
from pipeline.cleaning.repair import repair
from pipeline.cleaning.tally import Tally
from pipeline.documents import LEARNED, Conversation, Document, learned_texts, with_texts
from pipeline.import_closure import code_of
from pipeline.memo import Memo, code_digest, open_memo

if TYPE_CHECKING:
    from pipeline.stages.clean import Params

FindOut = Callable[[Sequence[str], Sequence[bytes]], Sequence[bytes]]
"""Texts and their digests in, what there is to find out of each out, as a memo keeps it."""

CHANGES_KEPT = 3
_TURN = "turn"
_MAY_BE_EMPTY = {"input", "passage", _TURN}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record as it came, as it leaves, and why it does not, if it does not."""

    record: Any
    cleaned: Any
    text: str
    digest: bytes
    """The sha256 of the text."""
    stands: bool
    """Whether the record is good for anything whatever its words: only then can another one be its duplicate."""
    reason: str | None
    bands: bytes = b""
    """What near-duplicates are known by; empty where nobody asks, or the record is dropped before."""

    def judged(self, said: Judgement) -> Verdict:
        """The same, and what its words say."""
        return replace(self, reason=said.reason, bands=said.bands)


@dataclass
class Examined:
    """What was found of the records of one part."""

    records: Sequence[Any]
    verdicts: list[Verdict] = field(default_factory=list)
    spelled: list[bytes] = field(default_factory=list)
    """Of each record the sha256 of its texts in our spelling, under which their personal data is remembered."""
    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Counts by source."""
    changes: defaultdict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    """The first few changes of each rule, to look at."""
    failing: Counter[str] = field(default_factory=Counter)
    """Records with personal data of a kind that stops the run."""


class Examination:
    """The rules of params for one kind of record."""

    def __init__(
        self, params: Params, name: str, kind: type[Any], find_personal_data: FindOut, judge: FindOut | None
    ) -> None:
        """`name` is what the counts of examples are called; without `judge` no rule looks at words."""
        self._params = params
        self._name = name
        self._fields = LEARNED[kind] if kind is not Conversation else repeat(_TURN)
        self._of_documents = kind is Document
        self._find_personal_data, self._judge = find_personal_data, judge

    def source_of(self, record: Any) -> str:
        """Whose count a record belongs to: its source, or the name of its kind."""
        return record.source if self._of_documents else self._name

    def examine(self, records: Sequence[Any]) -> Examined:
        """What becomes of each record."""
        examined = Examined(records)
        texts_of = [learned_texts(record) for record in records]
        texts = [
            self._spelled(examined, record, text) for record, own in zip(records, texts_of, strict=True) for text in own
        ]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        values = self._find_personal_data(texts, digests)
        findings = map(personal_data.from_bytes, values, texts)
        verdicts = [
            self._alone(examined, record, own, list(islice(findings, len(own))))
            for record, own in zip(records, texts_of, strict=True)
        ]
        each = iter(digests)
        examined.spelled = [b"".join(islice(each, len(own))) for own in texts_of]
        if self._judge:
            judged = [verdict for verdict in verdicts if self._is_judged(verdict)]
            said = iter(self._judge([verdict.text for verdict in judged], [verdict.digest for verdict in judged]))
            verdicts = [v.judged(Judgement.of(next(said), self._params)) if self._is_judged(v) else v for v in verdicts]
            if not self._of_documents:  # an equal example of another split may well stay
                verdicts = [replace(verdict, stands=verdict.reason is None) for verdict in verdicts]
        examined.verdicts = verdicts
        for verdict, own in zip(verdicts, texts_of, strict=True):
            tally = examined.tallies[self.source_of(verdict.record)]
            tally.enters("\0".join(own))
            if verdict.reason is None:
                tally.leaves(verdict.text)
            else:
                tally.is_dropped(verdict.reason)
        return examined

    def _is_judged(self, verdict: Verdict) -> bool:
        """Whether words matter: of examples those that are learned from, for the others are what is evaluated on."""
        return verdict.stands and (self._of_documents or verdict.record.split == "train")

    def _spelled(self, examined: Examined, record: Any, text: str) -> str:
        if self._params.repair_unicode:
            text = self._changed(examined, "repair_unicode", record, text, repair(text))
        return self._changed(examined, "normalise", record, text, normalise(text))

    def _alone(self, examined: Examined, record: Any, came: list[str], findings: Sequence[Findings]) -> Verdict:
        """What the rules say that need no words, of the findings in each of the texts that `came` in a record."""
        tally = examined.tallies[self.source_of(record)]
        reason: str | None = None
        for name, found in zip(self._fields, findings, strict=False):
            if name not in _MAY_BE_EMPTY:
                reason = reason or empty.reason_to_drop(found.text)
            tally.personal_data.update(found.counts)
            for key in found.masked:
                tally.changed[f"masked {key}"] += 1
            reason = reason or found.reason
        examined.failing.update({found.fails for found in findings if found.fails})
        tally.with_personal_data += any(found.counts for found in findings)
        texts = [found.text for found in findings]
        reason = reason or empty.reason_to_drop("".join(texts))
        if self._of_documents and reason is None and c4.LINES in self._params.quality:
            kept = c4.kept_lines(texts[0])
            texts = [self._changed(examined, c4.LINES, record, texts[0], kept)]
            reason = None if kept else f"{c4.LINES}: no line is left"
        text = "\0".join(texts)
        cleaned = record if texts == came else with_texts(record, texts)
        digest = hashlib.sha256(text.encode()).digest()
        return Verdict(record, cleaned, text, digest, stands=reason is None, reason=reason)

    def _changed(self, examined: Examined, rule: str, record: Any, before: str, after: str) -> str:
        """The text after a rule, counted if it differs; the first few of each rule are kept to look at."""
        if after != before:
            examined.tallies[self.source_of(record)].changed[rule] += 1
            if len(examined.changes[rule]) < CHANGES_KEPT:
                examined.changes[rule].append(Change.of(self._name, record.id, rule, before, after))
        return after


def policies_of(params: Params) -> dict[str, Policy]:
    """What to do with each kind of personal data."""
    return {key: getattr(params, key) for key in personal_data.KINDS}


@contextmanager
def remembered_findings(params: Params) -> Iterator[Memo]:
    """The personal data that earlier runs found, by the digest of the text; valid while policies and code are."""
    key = {"policies": policies_of(params), "code": code_of(personal_data.__name__), "libraries": code_digest()}
    with open_memo("personal_data", key) as memo:
        yield memo
