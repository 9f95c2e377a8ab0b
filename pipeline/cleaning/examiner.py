"""Goes in: a file of records. Comes out: what the rules found of it, in any process, and the records that they keep.

This is what workers do: nearly all the work of cleaning. They read what earlier runs found out, and hand what is new to
the process that keeps it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from model.freed_memory import keep_freed_memory
from pipeline.cleaning import personal_data
from pipeline.cleaning.contamination import EvaluationTexts
from pipeline.cleaning.examination import Examination, policies_of
from pipeline.cleaning.judgements import judge, judge_examples
from pipeline.cleaning.outcomes import Outcome
from pipeline.documents import KINDS, in_batches, read_records, write_records
from pipeline.memo import Known

if TYPE_CHECKING:
    from pipeline.stages.clean import Params

Found = list[tuple[bytes, bytes]]
"""What was found out: digests of texts, and the value of each, for a memo."""


@dataclass(frozen=True)
class ExaminedPart:
    """A part after the rules have looked at each of its records."""

    outcome: bytes
    """An `Outcome`."""
    kept: bytes
    """The cleaned records that no rule drops, as a Parquet file to be read soon; nothing if there is none."""
    personal_data: Found
    judgements: Found


@dataclass
class _Lookup:
    """Finds something out of texts, unless it is known; remembers what was new."""

    known: Known
    compute: Callable[[list[str]], Sequence[bytes]]
    fresh: Found = field(default_factory=list)

    def __call__(self, texts: Sequence[str], digests: Sequence[bytes]) -> list[bytes]:
        found = self.known.known(digests)
        missing = [place for place, value in enumerate(found) if value is None]
        new = self.compute([texts[place] for place in missing]) if missing else []
        for place, value in zip(missing, new, strict=True):
            found[place] = value
            self.fresh.append((digests[place], value))
        return [value for value in found if value is not None]


class Examiner:
    """Examines one part after another."""

    def __init__(
        self,
        params: Params,
        evaluations: EvaluationTexts | None,
        findings: Sequence[Path],
        judgements: Sequence[Path] | None,
    ) -> None:
        """The last two are the segments of memos: what is known of personal data and, if words matter, of those.

        Without the latter, records are examples, of which only `evaluations` say more.
        """
        keep_freed_memory()
        self._params, self._evaluations, self._policies = params, evaluations, policies_of(params)
        self._findings = Known(findings)
        self._judgements = None if judgements is None else Known(judgements)

    def __call__(self, asked: tuple[str, Path]) -> ExaminedPart:
        """What is found of the records of a kind in a file."""
        name, file = asked
        find = _Lookup(self._findings, self._find_personal_data)
        judging = _Lookup(self._judgements, self._judge) if self._judgements else None
        judge = self._judge_examples if judging is None and self._evaluations else judging
        rules = Examination(self._params, name, KINDS[name], find, judge)
        examined = rules.examine(list(read_records(file, KINDS[name])))
        kept = [verdict.cleaned for verdict in examined.verdicts if verdict.reason is None]
        sink = io.BytesIO()
        if kept:
            write_records(kept, KINDS[name], sink, "lz4")
        outcome = Outcome.of(examined, rules)
        return ExaminedPart(outcome.to_bytes(), sink.getvalue(), find.fresh, judging.fresh if judging else [])

    def _find_personal_data(self, texts: list[str]) -> list[bytes]:
        return [personal_data.to_bytes(personal_data.examine(text, self._policies)) for text in texts]

    def _judge_examples(self, texts: Sequence[str], _digests: Sequence[bytes]) -> list[bytes]:
        """Of an example no more matters than whether it holds what models are evaluated on."""
        assert self._evaluations
        return [
            value
            for batch in in_batches(texts, len)
            for value in judge_examples(batch, self._params, self._evaluations)
        ]

    def _judge(self, texts: list[str]) -> list[bytes]:
        """Batch by batch: what is laid out for a whole part would be large, and slower to look through."""
        return [value for batch in in_batches(texts, len) for value in judge(batch, self._params, self._evaluations)]
