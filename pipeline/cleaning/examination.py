"""Goes in: records of one kind, batch by batch. Comes out: each cleaned, or the reason to drop it; and the counts.

A rule sees a record in this order: repair, normalise, empty, personal data, C4's lines, exact duplicate, language,
quality, contamination. The last four are for documents; an example is kept in whatever language and however short.

What costs most, personal data and what is judged by words, needs no more than a text: workers find it out, unless an
earlier run has. The rest is done here, in order, while they work.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.cleaning import c4, empty, judgements, personal_data, secrets
from pipeline.cleaning.contamination import EvaluationTexts
from pipeline.cleaning.duplicates import Duplicates
from pipeline.cleaning.judgements import Judgement
from pipeline.cleaning.normalise import normalise
from pipeline.cleaning.personal_data import Findings, Policy
from pipeline.cleaning.rejections import Change
from pipeline.cleaning.repair import repair
from pipeline.cleaning.tally import Tally
from pipeline.documents import LEARNED, Document
from pipeline.engine import Workers
from pipeline.errors import DataError
from pipeline.memo import Memo, code_digest, open_memo

if TYPE_CHECKING:
    from pipeline.stages.clean import Params

Texts = tuple[Literal["personal data", "judgement"], list[str]]
"""What is to be found out, and of which texts."""
K = TypeVar("K")

_MAY_BE_EMPTY = {"input", "passage"}
_CHANGES_KEPT = 3


def text_rules(params: Params, evaluations: EvaluationTexts | None) -> Callable[[Texts], list[bytes]]:
    """What a worker does: find out one thing of some texts, as the memo keeps it."""
    policies = _policies(params)

    def found_out(asked: Texts) -> list[bytes]:
        what, texts = asked
        if what == "judgement":
            return judgements.judge(texts, params, evaluations)
        return [personal_data.to_bytes(personal_data.examine(text, policies)) for text in texts]

    return found_out


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record as it came, as it leaves, and why it does not, if it does not."""

    record: Any
    cleaned: Any
    text: str
    reason: str | None
    bands: bytes = b""
    """What near-duplicates are known by; empty where nobody asks, or the record is dropped before."""

    def judged(self, said: Judgement) -> Verdict:
        """The same, and what its words say."""
        return replace(self, reason=said.reason, bands=said.bands)


class Examination:
    """The rules of params, with what they remember of the records they saw."""

    def __init__(
        self,
        params: Params,
        name: str,
        kind: type[Any],
        workers: Workers[Texts, list[bytes]],
        findings: Memo,
        judgements: Memo | None = None,
    ) -> None:
        """`workers` are set up with `text_rules`; what they found in earlier runs stands in the two memos."""
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._params = params
        self._name = name
        self._learned = LEARNED[kind]
        self._of_documents = kind is Document
        self._workers = workers
        self._findings, self._judgements = findings, judgements
        self._duplicates = Duplicates()
        self._changes: defaultdict[str, list[Change]] = defaultdict(list)
        self._failing: dict[str, int] = {}

    @property
    def changes(self) -> list[Change]:
        """The first few changes of each rule, to look at."""
        return [change for rule in sorted(self._changes) for change in self._changes[rule]]

    def learned(self, record: Any) -> str:
        """What a model would learn from a record, as one text."""
        return "\0".join(getattr(record, name) for name in self._learned)

    def source_of(self, record: Any) -> str:
        """Whose count a record belongs to: its source, or the name of its kind."""
        return record.source if self._of_documents else self._name

    def examine(self, batches: Iterable[Sequence[Any]]) -> Iterator[list[Verdict]]:
        """What becomes of each record, batch by batch, in order."""
        spelled = ((records, self._spelled(records)) for records in batches)
        searched = self._found_out("personal data", self._findings, spelled)
        verdicts = (self._alone(records, texts, values) for (records, texts), values in searched)
        for batch in self._judged(verdicts) if self._judgements else verdicts:
            for verdict in batch:
                tally = self.tallies[self.source_of(verdict.record)]
                tally.enters(self.learned(verdict.record))
                if verdict.reason is None:
                    tally.leaves(verdict.text)
                else:
                    tally.is_dropped(verdict.reason)
            yield batch

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

    def _found_out(
        self, what: Literal["personal data", "judgement"], memo: Memo, batches: Iterable[tuple[K, list[str]]]
    ) -> Iterator[tuple[tuple[K, list[str]], list[bytes]]]:
        """Each batch and what there is to find out of its texts: looked up, or worked out where it is not known."""

        def asked() -> Iterator[tuple[Any, Texts | None]]:
            for kept, texts in batches:
                digests = [hashlib.sha256(text.encode()).digest() for text in texts]
                known = memo.known(digests)
                new = [text for text, value in zip(texts, known, strict=True) if value is None]
                yield ((kept, texts), digests, known), (what, new) if new else None

        for (batch, digests, known), fresh in self._workers.map_beside(asked()):
            yield batch, memo.completed(digests, known, fresh or [])

    def _spelled(self, records: Sequence[Any]) -> list[str]:
        """Each text of each record in our spelling: cheap enough to be worked out anew in each run."""
        return [self._spelled_one(record, name) for record in records for name in self._learned]

    def _spelled_one(self, record: Any, name: str) -> str:
        tally = self.tallies[self.source_of(record)]
        text: str = getattr(record, name)
        if self._params.repair_unicode:
            text = self._changed("repair_unicode", record, text, repair(text), tally)
        return self._changed("normalise", record, text, normalise(text), tally)

    def _alone(self, records: Sequence[Any], texts: Sequence[str], values: Sequence[bytes]) -> list[Verdict]:
        """What the rules say that need no more than the record itself, and what was seen before it."""
        findings = iter([personal_data.from_bytes(value, text) for value, text in zip(values, texts, strict=True)])
        return [self._alone_one(record, {name: next(findings) for name in self._learned}) for record in records]

    def _alone_one(self, record: Any, findings_of: Mapping[str, Findings]) -> Verdict:
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

    def _judged(self, batches: Iterable[list[Verdict]]) -> Iterator[list[Verdict]]:
        """The same verdicts; those that are left are judged by their words."""
        assert self._judgements is not None
        left = ((batch, [verdict.text for verdict in batch if verdict.reason is None]) for batch in batches)
        for (batch, _), values in self._found_out("judgement", self._judgements, left):
            said = iter([Judgement.of(value, self._params) for value in values])
            yield [verdict if verdict.reason is not None else verdict.judged(next(said)) for verdict in batch]

    def _changed(self, rule: str, record: Any, before: str, after: str, tally: Tally) -> str:
        """The text after a rule, counted if it differs; the first few of each rule are kept to look at."""
        if after != before:
            tally.changed[rule] += 1
            if len(self._changes[rule]) < _CHANGES_KEPT:
                self._changes[rule].append(Change.of(self._name, record.id, rule, before, after))
        return after


@contextmanager
def remembered_findings(params: Params) -> Iterator[Memo]:
    """The personal data that earlier runs found, by the digest of the text; valid while policies and code are."""
    key = {"policies": _policies(params), "code": code_digest(personal_data, secrets)}
    with open_memo("personal_data", key) as memo:
        yield memo


def _policies(params: Params) -> dict[str, Policy]:
    return {key: getattr(params, key) for key in personal_data.KINDS}
