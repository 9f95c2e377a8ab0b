"""Goes in: the sources that params name. Comes out: documents and examples as Parquet, and what was turned away."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import (
    KINDS,
    Document,
    Record,
    digest_of_records,
    n_characters,
    write_records,
    write_table,
)
from pipeline.erasures import Erasures, honoured, load
from pipeline.errors import ConfigurationError, DataError
from pipeline.import_closure import code_of
from pipeline.kept_files import KeptFiles, open_kept_files
from pipeline.known_document import KnownDocument
from pipeline.ledger import balance
from pipeline.manifest import Draft, commit
from pipeline.memo import code_digest
from pipeline.params import Compute
from pipeline.quarantine import Rejections, keeping_rejections
from pipeline.report import Report
from pipeline.sources import python_docs
from pipeline.sources import samples as sample_files
from pipeline.sources.catalogue import SPLITS, Entry, check_sources
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation
from pipeline.sources.known_files import open_known_files
from pipeline.sources.records import check_fields
from pipeline.sources.remembered import remembered_texts

READS = {"texts": "${ingest.texts}", "samples": "data/samples", "erasures": "data/erasures.txt"}
WRITES = {
    "documents": "data/documents/ingested",
    "examples": "data/examples/ingested",
    "quarantine": "data/quarantine/ingest",
}

DOCUMENTATION: dict[str, Callable[[], Iterator[Document | Rejection]]] = {
    "python-topics": python_docs.language_topics,
    "python-library": python_docs.library_docs,
    "environment": python_docs.environment_docs,
}
TEXTS = "texts"


@dataclass(frozen=True)
class Params:
    """What to read."""

    sources: tuple[str, ...]
    """What is read, in the order that records take: python-topics, python-library, environment, texts, or a name from
    `catalogue`."""
    texts: str
    """Your own files: a folder, a file or an archive, of every format in docs/sources.md. DVC watches it."""
    texts_licence: str
    """The licence of those files, recorded with each document."""
    catalogue: dict[str, Entry] = field(default_factory=dict)
    """Further sources by name; docs/sources.md shows an entry for each kind."""

    def __post_init__(self) -> None:
        place = Path(os.path.abspath(self.texts))  # noqa: PTH100 (".." goes, links stay)
        if any(Path(made).absolute().is_relative_to(place) for made in WRITES.values()):
            raise ValueError(f"texts is {self.texts!r}, which holds what the stages make; name a folder of its own")
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError("sources must name at least one source, and none twice")
        check_sources(self.sources, (*DOCUMENTATION, TEXTS), self.catalogue, self.texts)
        for name, entry in self.catalogue.items():
            try:
                check_fields(entry)
            except ValueError as error:
                raise ValueError(f"catalogue.{name}: {error}") from None

    def entries(self, kind: str) -> list[tuple[str, Entry]]:
        """The catalogue's sources of one kind that are to be read, in order."""
        chosen = [(name, self.catalogue[name]) for name in self.sources if name in self.catalogue]
        return [(name, entry) for name, entry in chosen if entry.kind == kind]


def run(
    params: Params,
    *,
    texts: Path,
    samples: Path,
    erasures: Path,
    documents: Path,
    examples: Path,
    quarantine: Path,
    compute: Compute,
    report: Report,
) -> None:
    """Read every source in order; write the records, count them by source, and keep what was refused."""
    erased = load(erasures)
    with (
        keeping_rejections(quarantine, stage="ingest") as refused,
        remembered_texts() as memo,
        Isolation(memo=memo, children=compute.worker_count) as isolation,
        open_known_files(asdict(params), erased, memo) as known,
        open_kept_files(
            "ingested_files", [code_of(write_table.__module__), code_digest(libraries=["pyarrow"])]
        ) as kept,
    ):
        corpus = Corpus(isolation, note=report.note, known=known)
        door = _Door(erased, refused, forget=lambda text: memo.forget(text.encode("utf-8", "surrogatepass")))
        with commit(documents, "documents", params=params) as draft:
            write = partial(_write, kept, draft)
            by_source: Counter[str] = Counter()
            found = door.let_in(_documents(params, texts, corpus))
            counted = _counted(found, by_source, report)
            rows = write_table(counted, Document, draft.path / "documents.parquet", write, _characters)
            door.balance("documents", rows)
            draft.facts |= {"documents": rows, "by_source": dict(sorted(by_source.items()))}
            draft.facts["sources"] = dict(corpus.facts)
            if not rows:
                raise DataError(_nothing_left(refused, "no document could be read"))
        with commit(examples, "examples", params=params) as draft:
            write = partial(_write, kept, draft)
            corpus.facts.clear()
            for kind, record in KINDS.items():
                if kind == "documents":
                    continue
                # The first two are there even when nobody asked: the models of params.yaml are fine-tuned on them.
                datasets = sample_files.present(samples, kind)
                if not datasets and kind in ("messages", "instructions"):
                    names = ", ".join(name for name, each in sample_files.DATASETS.items() if each.kind == kind)
                    raise ConfigurationError(f"{samples}: there is no folder of {kind} ({names}); put one back")
                if not datasets and not params.entries(kind):
                    continue
                found = door.let_in(_examples(params, kind, samples, corpus))
                draft.facts[kind] = write_table(found, record, draft.path / f"{kind}.parquet", write)
                door.balance(kind, draft.facts[kind])
                if not draft.facts[kind]:
                    where = " and ".join(str(samples / name) for name in datasets) or f"the sources of {kind}"
                    raise DataError(_nothing_left(refused, f"{where}: no example could be read"))
            if corpus.facts:
                draft.facts["sources"] = dict(corpus.facts)
    for rejection in refused.first:
        report.note(f"turned away {rejection.source} {rejection.name}, byte {rejection.offset:,}: {rejection.reason}")
    if more := len(refused) - len(refused.first):
        report.note(f"… and {more:,} more, all in {quarantine}")
    report.metrics({"documents": rows, "turned_away": len(refused)})
    report.note(f"{rows:,} documents from {len(by_source)} sources; {len(refused):,} records turned away")


def _documents(params: Params, texts: Path, corpus: Corpus) -> Iterator[Record | Rejection]:
    entries = dict(params.entries("documents"))
    named = [params.catalogue[name].local_path for name in params.sources if name in params.catalogue]
    of_others = [Path(path) for path in named if path]
    own = Entry(path=str(texts), kind="documents", licence=params.texts_licence, origin="ingest.texts")
    for source in params.sources:
        if source in DOCUMENTATION:
            yield from DOCUMENTATION[source]()
        elif source == TEXTS:
            yield from corpus.read(TEXTS, own, key="ingest.texts", without=of_others)
        elif source in entries:
            yield from corpus.read(source, entries[source], key=f"ingest.catalogue.{source}.path")


def _examples(params: Params, kind: str, samples: Path, corpus: Corpus) -> Iterator[Record | Rejection]:
    """The records of one kind: the project's samples, set by set and split by split, then those of the catalogue."""
    for dataset in sample_files.present(samples, kind):
        for split in SPLITS:
            yield from sample_files.examples(samples / dataset / f"{split}.jsonl", dataset, split=split)
    for name, entry in params.entries(kind):
        yield from corpus.read(name, entry, key=f"ingest.catalogue.{name}.path")


def _write(kept: KeptFiles, draft: Draft, records: list[Any], kind: type[Any], path: Path) -> None:
    """A part of a table, the one that an earlier run wrote of the same records if there is one."""
    digest = digest_of_records(records, kind)
    kept.fill(draft, path, digest, lambda place: write_records(map(_whole, records), kind, place))


def _whole(record: Any) -> Any:
    return record.document() if isinstance(record, KnownDocument) else record


def _characters(document: Document | KnownDocument) -> int:
    return document.n_characters if isinstance(document, KnownDocument) else n_characters(document)


class _Door:
    """Lets good records in, puts the others among the refused, and counts both."""

    def __init__(self, erased: Erasures, refused: Rejections, forget: Callable[[str], None]) -> None:
        self._erased, self._refused, self._forget = erased, refused, forget
        self._came, self._refused_before = 0, 0

    def let_in(self, found: Iterable[Record | Rejection]) -> Iterator[Record]:
        """The good records of a stream."""
        self._came, self._refused_before = 0, len(self._refused)
        for record in honoured(found, self._erased, self._forget):
            self._came += 1
            if isinstance(record, Rejection):
                self._refused.append(record)
            else:
                yield record

    def balance(self, kind: str, written: int) -> None:
        """Assert that of the last stream every record was written or refused."""
        balance("ingest", kind, read=self._came, written=written, quarantined=len(self._refused) - self._refused_before)


def _counted(records: Iterable[Record], by_source: Counter[str], report: Report) -> Iterator[Document | KnownDocument]:
    for number, record in enumerate(records, start=1):
        assert isinstance(record, Document | KnownDocument)
        by_source[record.source] += 1
        if number % 2000 == 0:
            report.note(f"{number:,} documents read")
        yield record


def _nothing_left(refused: Rejections, what: str) -> str:
    few = len(refused) == len(refused.first)
    reasons = Counter(rejection.reason for rejection in refused.first) if few else refused.by_rule
    said = "; ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common(3)) or "the sources are empty"
    return f"ingest: {what} ({said}); look at ingest.sources and ingest.texts in params.yaml"
