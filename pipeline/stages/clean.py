"""Goes in: documents and examples as ingested. Comes out: those worth learning from; each other one apart, with why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from model.freed_memory import keep_freed_memory
from pipeline.cleaning.contamination import EvaluationTexts
from pipeline.cleaning.examination import Examination, Texts, remembered_findings, text_rules
from pipeline.cleaning.groups import digest_of, write_groups
from pipeline.cleaning.judgements import remembered_judgements
from pipeline.cleaning.near_duplicates import NearDuplicates
from pipeline.cleaning.personal_data import Policy
from pipeline.cleaning.quality import NAMES, QualityRule
from pipeline.cleaning.rejections import Rejection
from pipeline.cleaning.tally import rule_of
from pipeline.documents import (
    KINDS,
    Document,
    in_batches,
    read_batches,
    read_records,
    records_of,
    write_batches,
    write_records,
)
from pipeline.engine import make_ready, workers
from pipeline.errors import ConfigurationError, DataError
from pipeline.ledger import balance
from pipeline.manifest import commit, read, sha256_file, verify
from pipeline.params import Compute
from pipeline.quarantine import Rejections, keeping_rejections
from pipeline.report import Report

READS = {
    "ingested_documents": "data/documents/ingested",
    "ingested_examples": "data/examples/ingested",
    "evaluation_texts": "data/evaluation_texts",
}
WRITES = {
    "documents": "data/documents/clean",
    "examples": "data/examples/clean",
    "quarantine": "data/quarantine/clean",
}
EXAMPLES: dict[str, type[Any]] = {name: kind for name, kind in KINDS.items() if kind is not Document}
BYTES_PER_WORKER = 1 << 21  # compressed, 6 MB of text: with twice as much a second worker makes up for its beginning
EVALUATION_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Params:
    """Which rules hold; docs/cleaning.md says what each one does and where its limit comes from."""

    repair_unicode: bool
    """Put characters right that were decoded wrongly, where that is beyond doubt."""
    languages: tuple[str, ...]
    """Keep documents in these languages only, such as [en, de]; an empty list keeps all."""
    minimum_language_probability: float
    """How sure of the language one must be, from 0 to 1."""
    quality: tuple[QualityRule, ...]
    """The rules of Gopher, C4 and FineWeb that documents must pass, by name."""
    drop_duplicates: bool
    """Keep only the first of documents and examples that are equal after normalisation."""
    near_duplicates: Literal["keep", "drop", "keep_in_one_split"]
    """Of documents that nearly repeat one another: keep all, drop all but the first, or keep all on one side of the
    split into training and validation."""
    drop_contaminated: bool
    """Drop documents that have 13 words in a row in common with a text the models are evaluated on: the examples held
    out, and the files in data/evaluation_texts."""
    email_addresses: Policy
    """count, mask, drop (the record) or fail (the run)."""
    phone_numbers: Policy
    """The same for telephone numbers."""
    ip_addresses: Policy
    """The same for addresses of the public internet."""
    payment_cards: Policy
    """The same for the numbers of payment cards."""
    ibans: Policy
    """The same for international bank account numbers."""
    secrets: Policy
    """The same for private keys, API keys, tokens and passwords in addresses."""
    maximum_personal_data_share: float
    """If personal data is found in a greater share of the documents, or of one kind of examples, the run stops."""

    def __post_init__(self) -> None:
        for name in ("minimum_language_probability", "maximum_personal_data_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1")
        if unknown := [rule for rule in self.quality if rule not in NAMES]:
            raise ValueError(f"quality has no rule {unknown[0]!r}")


def run(
    params: Params,
    *,
    ingested_documents: Path,
    ingested_examples: Path,
    evaluation_texts: Path,
    documents: Path,
    examples: Path,
    quarantine: Path,
    compute: Compute,
    report: Report,
) -> None:
    """Pass every record through the rules; each one that goes in comes out or is quarantined with a reason."""
    compute = compute.sized(read(ingested_documents).size_bytes, BYTES_PER_WORKER)
    make_ready(compute, __name__)
    keep_freed_memory()
    verify(ingested_documents)
    verify(ingested_examples)
    evaluations = _evaluation_texts(evaluation_texts) if params.drop_contaminated else None
    rows_in = 0
    with keeping_rejections(quarantine, stage="clean") as dropped, remembered_findings(params) as findings:
        # Examples come first: no document may hold what they will be evaluated with.
        with (
            commit(examples, "examples", params=params, inputs={"ingested": ingested_examples}) as draft,
            workers(partial(_text_rules, params, None), compute) as ready,
        ):
            draft.facts["by_kind"] = {}
            for name, kind in EXAMPLES.items():
                if not (ingested_examples / f"{name}.parquet").exists():
                    continue
                rules = Examination(params, name, kind, ready, findings)
                rows = _clean(params, rules, name, kind, ingested_examples, draft.path, dropped)
                rows_in += rows[0]
                draft.facts |= {name: rows[1], f"{name}_in": rows[0]}
                draft.facts["by_kind"][name] = rules.tallies[name].facts()
                if evaluations:
                    _look_for(evaluations, rules, draft.path / f"{name}.parquet", kind)
        with (
            commit(documents, "documents", params=params, inputs={"ingested": ingested_documents}) as draft,
            workers(partial(_text_rules, params, evaluations), compute) as ready,
            remembered_judgements(params, evaluations) as judgements,
        ):
            rules = Examination(params, "documents", Document, ready, findings, judgements)
            rows = _clean(params, rules, "documents", Document, ingested_documents, draft.path, dropped)
            rows_in += rows[0]
            draft.facts |= {"documents": rows[1], "documents_in": rows[0]}
            draft.facts["by_source"] = {name: tally.facts() for name, tally in sorted(rules.tallies.items())}
            if evaluations:
                draft.facts["evaluation_texts"] = evaluations.looked_for
                draft.facts["evaluation_texts_too_short"] = evaluations.too_short
                draft.facts["evaluation_files"] = {file.name: sha256_file(file) for file in _files(evaluation_texts)}
    reasons = Counter(rule_of(rejection.reason) for rejection in dropped)
    personal = sum(tally.with_personal_data for tally in rules.tallies.values())
    report.metrics({"records_in": rows_in, "records_dropped": len(dropped), "documents_with_personal_data": personal})
    said = "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common()) or "none"
    report.note(f"{rows_in - len(dropped):,} of {rows_in:,} records kept; dropped: {said}")
    if personal:
        report.note(f"{personal:,} documents hold personal data; see data/reports/data_report")


def _text_rules(params: Params, evaluations: EvaluationTexts | None) -> Callable[[Texts], list[bytes]]:
    keep_freed_memory()
    return text_rules(params, evaluations)


def _clean(
    params: Params, rules: Examination, name: str, kind: type[Any], source: Path, folder: Path, dropped: Rejections
) -> tuple[int, int]:
    """Clean one file of records; how many went in and came out."""
    rows_in = 0
    dropped_before = len(dropped)
    looking = kind is Document and params.near_duplicates != "keep"
    near = NearDuplicates()

    def kept() -> Iterator[Any]:
        nonlocal rows_in
        for verdicts in rules.examine(in_batches(read_records(source / f"{name}.parquet", kind))):
            rows_in += len(verdicts)
            survivors = []
            for verdict in verdicts:
                if verdict.reason is None:
                    survivors.append(verdict)
                else:
                    dropped.append(_turned_away(verdict.record, name, verdict.reason))
            if looking:
                near.remember([verdict.bands for verdict in survivors])
            yield from (verdict.cleaned for verdict in survivors)

    target = folder / f"{name}.parquet"
    dropping = looking and params.near_duplicates == "drop"
    written = folder / "waiting.parquet" if dropping else target
    rows_out = write_records(kept(), kind, written, "lz4" if dropping else "zstd")
    dropped.changes += rules.changes
    rules.stop_if_too_personal()
    if dropping:
        rows_out = _drop_near_duplicates(near, rules, written, target, dropped)
    elif looking:
        write_groups(list(_groups(near, target)), folder)
    balance("clean", name, read=rows_in, written=rows_out, quarantined=len(dropped) - dropped_before)
    if not rows_out:
        raise DataError(f"clean: none of the {rows_in:,} {name} is left; look at the reasons in data/quarantine/clean")
    return rows_in, rows_out


def _drop_near_duplicates(
    near: NearDuplicates, rules: Examination, waiting: Path, target: Path, dropped: Rejections
) -> int:
    """Of the waiting documents write the first of each cluster only; how many are left."""
    firsts = np.asarray(near.firsts(), np.int64)
    with_others = np.unique(firsts[firsts != np.arange(len(firsts))])
    ids: dict[int, str] = {}

    def kept() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in read_batches(waiting, Document):
            places = np.arange(start, start + len(batch))
            own = firsts[places]
            [named] = np.nonzero(np.isin(places, with_others))
            ids.update(zip(places[named].tolist(), batch.column("id").take(named).to_pylist(), strict=True))
            [going] = np.nonzero(own != places)
            for first, document in zip(own[going].tolist(), records_of(batch.take(going), Document), strict=True):
                reason = f"near duplicate of {ids[first]}"
                rules.tallies[document.source].comes_back(document.text, reason)
                dropped.append(_turned_away(document, "documents", reason))
            yield batch.filter(own == places)
            start += len(batch)

    rows_out = write_batches(kept(), Document, target)
    waiting.unlink()
    return rows_out


def _groups(near: NearDuplicates, file: Path) -> Iterator[tuple[str, str]]:
    """The id of each document that is like one before it, and the digest of the first of those."""
    firsts = near.firsts()
    with_others = {first for place, first in enumerate(firsts) if first != place}
    digests: dict[int, str] = {}
    for place, (document, first) in enumerate(zip(read_records(file, Document), firsts, strict=True)):
        if place in with_others:
            digests[place] = digest_of(document.text)
        if first != place:
            yield document.id, digests[first]


def _files(evaluation_texts: Path) -> list[Path]:
    """The files of a folder but for its pages of explanation; none where there is no folder."""
    if not evaluation_texts.is_dir():
        return []
    return sorted(f for f in evaluation_texts.iterdir() if f.suffix != ".md" and not f.name.startswith("."))


def _evaluation_texts(folder: Path) -> EvaluationTexts:
    """What no document may hold: to begin with, the texts in this folder."""
    evaluations = EvaluationTexts()
    for file in _files(folder):
        if file.suffix not in (".txt", ".jsonl"):
            raise ConfigurationError(
                f"{file}: neither .txt, a text on each line, nor .jsonl; rename it or take it away"
            )
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
            if file.suffix == ".jsonl":
                rows = [json.loads(line) for line in lines if line.strip()]
                lines = ["\n".join(str(value) for value in row.values()) for row in rows]
        except OSError as error:
            raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError, RecursionError) as error:
            form = "JSON objects" if file.suffix == ".jsonl" else "text"
            raise ConfigurationError(f"{file}: not lines of {form} in UTF-8") from error
        evaluations.add(file.name, [line for line in lines if line.strip()])
    return evaluations


def _look_for(evaluations: EvaluationTexts, rules: Examination, file: Path, kind: type[Any]) -> None:
    """Add the cleaned examples that models will be evaluated on."""
    texts: dict[str, list[str]] = {split: [] for split in EVALUATION_SPLITS}
    for record in read_records(file, kind):
        if getattr(record, "split", None) in texts:
            texts[record.split].append(rules.learned(record).replace("\0", "\n"))
    for split, own in texts.items():
        evaluations.add(f"the {split} {file.stem}", own)


def _turned_away(record: Any, kind: str, reason: str) -> Rejection:
    raw = "\0".join(str(getattr(record, field.name)) for field in fields(record))
    return Rejection.of(source=kind, name=record.id, reason=reason, raw=raw.encode())
