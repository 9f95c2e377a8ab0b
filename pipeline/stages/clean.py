"""Goes in: documents and examples as ingested. Comes out: those worth learning from; each other one apart, with why."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from model.freed_memory import keep_freed_memory
from pipeline.cleaning.contamination import EvaluationTexts
from pipeline.cleaning.examination import remembered_findings
from pipeline.cleaning.examiner import Examiner
from pipeline.cleaning.groups import write_groups
from pipeline.cleaning.judgements import remembered_judgements
from pipeline.cleaning.personal_data import Policy
from pipeline.cleaning.quality import NAMES, QualityRule
from pipeline.cleaning.tables import Cleaned, Memories, TableCleaning, remembered_parts
from pipeline.documents import KINDS, Document, learned_texts, read_records
from pipeline.engine import make_ready, workers
from pipeline.errors import ConfigurationError, DataError
from pipeline.ledger import balance
from pipeline.manifest import Draft, commit, read, sha256_file, verify
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
        if wrong := [language for language in self.languages if not re.fullmatch("[a-z]{2,3}", language)]:
            raise ValueError(f"languages has {wrong[0]!r}; name each by its code in ISO 639, such as en")


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
    folders = (ingested_documents, ingested_examples)
    sized = {folder: compute.sized(read(folder).size_bytes, BYTES_PER_WORKER) for folder in folders}
    make_ready(sized[ingested_documents], __name__)
    given = {folder: verify(folder) for folder in folders}
    keep_freed_memory()
    sha256_of = {folder / name: e.sha256 for folder, manifest in given.items() for name, e in manifest.files.items()}
    evaluations = _evaluation_texts(evaluation_texts) if params.drop_contaminated else None
    # The examples that are evaluated on are added to that as they come: no example is held against those.
    given_texts = deepcopy(evaluations) if evaluations and evaluations.sets else None
    rows_in = 0
    with keeping_rejections(quarantine, stage="clean") as dropped, remembered_findings(params) as findings:
        # Examples come first: no document may hold what they will be evaluated with.
        with (
            remembered_parts("examples", [asdict(params), given_texts and given_texts.digest()]) as remembered,
            workers(partial(Examiner, params, given_texts, findings.folders, None), sized[ingested_examples]) as ready,
            commit(examples, "examples", params=params, inputs={"ingested": ingested_examples}) as draft,
        ):
            memories = Memories(findings, None, remembered)
            draft.facts["by_kind"] = {}
            for name, kind in EXAMPLES.items():
                if not (table := ingested_examples / f"{name}.parquet").exists():
                    continue
                cleaning = TableCleaning(
                    name, ready, memories,
                    drop_duplicates=params.drop_duplicates, near_duplicates="keep", report=report,
                )  # fmt: skip
                found = _clean(params, cleaning, name, table, sha256_of, draft, dropped)
                rows_in += found.rows_in
                draft.facts |= {name: found.rows_out, f"{name}_in": found.rows_in}
                draft.facts["by_kind"][name] = found.tallies[name].facts()
                if evaluations:
                    _look_for(evaluations, draft.path / table.name, kind)
        with (
            remembered_judgements(params, evaluations) as judgements,
            remembered_parts("documents", [asdict(params), evaluations and evaluations.digest()]) as remembered,
            workers(
                partial(Examiner, params, evaluations, findings.folders, judgements.folders if judgements else None),
                sized[ingested_documents],
            ) as ready,
            commit(documents, "documents", params=params, inputs={"ingested": ingested_documents}) as draft,
        ):
            cleaning = TableCleaning(
                "documents", ready, Memories(findings, judgements, remembered),
                drop_duplicates=params.drop_duplicates, near_duplicates=params.near_duplicates, report=report,
            )  # fmt: skip
            table = ingested_documents / "documents.parquet"
            found = _clean(params, cleaning, "documents", table, sha256_of, draft, dropped)
            if params.near_duplicates == "keep_in_one_split":
                write_groups(found.together, draft.path)
            rows_in += found.rows_in
            draft.facts |= {"documents": found.rows_out, "documents_in": found.rows_in}
            draft.facts["by_source"] = {name: tally.facts() for name, tally in sorted(found.tallies.items())}
            if evaluations:
                draft.facts["evaluation_texts"] = evaluations.looked_for
                draft.facts["evaluation_texts_too_short"] = evaluations.too_short
                draft.facts["evaluation_files"] = {file.name: sha256_file(file) for file in _files(evaluation_texts)}
    personal = sum(tally.with_personal_data for tally in found.tallies.values())
    report.metrics({"records_in": rows_in, "records_dropped": len(dropped), "documents_with_personal_data": personal})
    said = "; ".join(f"{count:,} {reason}" for reason, count in dropped.by_rule.most_common()) or "none"
    report.note(f"{rows_in - len(dropped):,} of {rows_in:,} records kept; dropped: {said}")
    if personal:
        report.note(f"{personal:,} documents hold personal data; see data/reports/data_report")


def _clean(
    params: Params,
    cleaning: TableCleaning,
    name: str,
    source: Path,
    sha256_of: dict[Path, str],
    draft: Draft,
    dropped: Rejections,
) -> Cleaned:
    """Clean one table; DataError if it holds what must not be there, or nothing is left."""
    dropped_before = len(dropped)
    found = cleaning.clean(source, sha256_of, draft, dropped)
    _stop_if_too_personal(params, name, found)
    balance("clean", name, read=found.rows_in, written=found.rows_out, quarantined=len(dropped) - dropped_before)
    if not found.rows_out:
        raise DataError(
            f"clean: none of the {found.rows_in:,} {name} is left; look at the reasons in data/quarantine/clean"
        )
    return found


def _stop_if_too_personal(params: Params, name: str, found: Cleaned) -> None:
    """Raise DataError if a kind that must not occur was found, or personal data in too many of the records."""
    for key, count in found.failing.items():
        raise DataError(
            f"clean: {count:,} of the {name} hold what is looked for as {key}, and clean.{key} is fail; "
            "look at them in data/quarantine/clean, then take them out, or set it to mask or drop"
        )
    with_any = sum(tally.with_personal_data for tally in found.tallies.values())
    if with_any > params.maximum_personal_data_share * found.rows_in:
        raise DataError(
            f"clean: {with_any:,} of {found.rows_in:,} {name} hold personal data, and "
            f"clean.maximum_personal_data_share is {params.maximum_personal_data_share:g}; look at the source, or "
            "raise the limit"
        )


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


def _look_for(evaluations: EvaluationTexts, table: Path, kind: type[Any]) -> None:
    """Add the cleaned examples that models will be evaluated on."""
    texts: dict[str, list[str]] = {split: [] for split in EVALUATION_SPLITS}
    for record in read_records(table, kind):
        if getattr(record, "split", None) in texts:
            texts[record.split].append("\n".join(learned_texts(record)))
    for split, own in texts.items():
        evaluations.add(f"the {split} {table.stem}", own)
