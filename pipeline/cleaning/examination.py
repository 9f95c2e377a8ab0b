"""Goes in: records of one kind, part by part. Comes out: each cleaned, or the reason to drop it; and the counts.

A rule sees a record in this order: repair, normalise, empty, personal data, C4's lines, language, quality,
contamination. The last three are for documents; an example is kept in whatever language and however short. None of
them looks at another record, so what is found of a part holds in every corpus that has it.

What costs most, personal data and what is judged by words, needs no more than a text: workers find it out, unless an
earlier run has. The rest is done here, in order, while they work.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.cleaning import c4, empty, judgements, personal_data, secrets
from pipeline.cleaning.contamination import EvaluationTexts
from pipeline.cleaning.judgements import Judgement
from pipeline.cleaning.normalise import normalise
from pipeline.cleaning.personal_data import Findings, Policy
from pipeline.cleaning.rejections import Change
from pipeline.cleaning.repair import repair
from pipeline.cleaning.tally import Tally
from pipeline.documents import LEARNED, Document
from pipeline.engine import Workers
from pipeline.memo import Memo, code_digest, open_memo

if TYPE_CHECKING:
    from pipeline.stages.clean import Params

Texts = tuple[Literal["personal data", "judgement"], list[str]]
"""What is to be found out, and of which texts."""

CHANGES_KEPT = 3
_MAY_BE_EMPTY = {"input", "passage"}


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
    """The sha256 of each text in our spelling, under which its personal data is remembered."""
    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Counts by source."""
    changes: defaultdict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    """The first few changes of each rule, to look at."""
    failing: Counter[str] = field(default_factory=Counter)
    """Records with personal data of a kind that stops the run."""


class Examination:
    """The rules of params for one kind of record."""

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
        self._params = params
        self._name = name
        self._learned = LEARNED[kind]
        self._of_documents = kind is Document
        self._workers = workers
        self._findings, self._judgements = findings, judgements

    def source_of(self, record: Any) -> str:
        """Whose count a record belongs to: its source, or the name of its kind."""
        return record.source if self._of_documents else self._name

    def examine(self, parts: Iterable[Sequence[Any]]) -> Iterator[Examined]:
        """What becomes of each record, part by part, in order."""
        spelled = (self._spelled(Examined(records)) for records in parts)
        searched = self._found_out("personal data", self._findings, spelled)
        verdicts = (self._alone(examined, texts, values) for examined, texts, values in searched)
        for examined in self._judged(verdicts) if self._judgements else verdicts:
            for verdict in examined.verdicts:
                tally = examined.tallies[self.source_of(verdict.record)]
                tally.enters(self._text(verdict.record))
                if verdict.reason is None:
                    tally.leaves(verdict.text)
                else:
                    tally.is_dropped(verdict.reason)
            yield examined

    def keep(self, spelled: Sequence[bytes], stand: Sequence[bytes]) -> None:
        """Of parts that need not be examined: remember on what is known of their texts, for when they are changed.

        `spelled` as in `Examined`, and the digests of those that stand.
        """
        self._findings.keep(spelled)
        if self._judgements:
            self._judgements.keep(stand)

    def _found_out(
        self,
        what: Literal["personal data", "judgement"],
        memo: Memo,
        parts: Iterable[tuple[Examined, list[str], list[bytes]]],
    ) -> Iterator[tuple[Examined, list[str], list[bytes]]]:
        """For each part, some texts and their digests: what there is to find out of the texts, looked up or worked out
        where it is not known."""

        def asked() -> Iterator[tuple[Any, Texts | None]]:
            for examined, texts, digests in parts:
                known = memo.known(digests)
                new = [text for text, value in zip(texts, known, strict=True) if value is None]
                yield (examined, texts, digests, known), (what, new) if new else None

        for (examined, texts, digests, known), fresh in self._workers.map_beside(asked()):
            yield examined, texts, memo.completed(digests, known, fresh or [])

    def _text(self, record: Any) -> str:
        """What a model would learn from a record, as one text."""
        return "\0".join(getattr(record, name) for name in self._learned)

    def _spelled(self, examined: Examined) -> tuple[Examined, list[str], list[bytes]]:
        """Each text of each record in our spelling, and its digest: cheap enough to be worked out anew."""
        texts = [self._spelled_one(examined, record, name) for record in examined.records for name in self._learned]
        examined.spelled = [hashlib.sha256(text.encode()).digest() for text in texts]
        return examined, texts, examined.spelled

    def _spelled_one(self, examined: Examined, record: Any, name: str) -> str:
        text: str = getattr(record, name)
        if self._params.repair_unicode:
            text = self._changed(examined, "repair_unicode", record, text, repair(text))
        return self._changed(examined, "normalise", record, text, normalise(text))

    def _alone(self, examined: Examined, texts: Sequence[str], values: Sequence[bytes]) -> Examined:
        """The same with the verdicts of the rules that need no words."""
        findings = iter([personal_data.from_bytes(value, text) for value, text in zip(values, texts, strict=True)])
        examined.verdicts = [
            self._alone_one(examined, record, {name: next(findings) for name in self._learned})
            for record in examined.records
        ]
        return examined

    def _alone_one(self, examined: Examined, record: Any, findings_of: Mapping[str, Findings]) -> Verdict:
        tally = examined.tallies[self.source_of(record)]
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
                examined.failing[findings.fails] += 1
            reason = reason or findings.reason
            texts[name] = findings.text
        tally.with_personal_data += bool(found)
        if self._of_documents and reason is None and c4.LINES in self._params.quality:
            kept = c4.kept_lines(texts["text"])
            texts["text"] = self._changed(examined, c4.LINES, record, texts["text"], kept)
            reason = None if kept else f"{c4.LINES}: no line is left"
        text = "\0".join(texts.values())
        unchanged = all(getattr(record, name) == text for name, text in texts.items())
        cleaned = record if unchanged else replace(record, **texts)
        digest = hashlib.sha256(text.encode()).digest()
        return Verdict(record, cleaned, text, digest, stands=reason is None, reason=reason)

    def _judged(self, parts: Iterable[Examined]) -> Iterator[Examined]:
        """The same; what is left is judged by its words."""
        assert self._judgements is not None

        def left() -> Iterator[tuple[Examined, list[str], list[bytes]]]:
            for examined in parts:
                standing = [verdict for verdict in examined.verdicts if verdict.stands]
                yield examined, [verdict.text for verdict in standing], [verdict.digest for verdict in standing]

        for examined, _, values in self._found_out("judgement", self._judgements, left()):
            said = iter([Judgement.of(value, self._params) for value in values])
            examined.verdicts = [v.judged(next(said)) if v.stands else v for v in examined.verdicts]
            yield examined

    def _changed(self, examined: Examined, rule: str, record: Any, before: str, after: str) -> str:
        """The text after a rule, counted if it differs; the first few of each rule are kept to look at."""
        if after != before:
            examined.tallies[self.source_of(record)].changed[rule] += 1
            if len(examined.changes[rule]) < CHANGES_KEPT:
                examined.changes[rule].append(Change.of(self._name, record.id, rule, before, after))
        return after


@contextmanager
def remembered_findings(params: Params) -> Iterator[Memo]:
    """The personal data that earlier runs found, by the digest of the text; valid while policies and code are."""
    key = {"policies": _policies(params), "code": code_digest(personal_data, secrets)}
    with open_memo("personal_data", key) as memo:
        yield memo


def _policies(params: Params) -> dict[str, Policy]:
    return {key: getattr(params, key) for key in personal_data.KINDS}
