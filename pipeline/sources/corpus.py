"""Goes in: the sources of params.yaml that are files somewhere. Comes out: their records, counted and pinned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Document, Record
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.known_document import KnownDocument
from pipeline.sources import huggingface
from pipeline.sources.catalogue import HUB, Entry
from pipeline.sources.download import fetched
from pipeline.sources.formats import wrapping
from pipeline.sources.isolation import Isolation
from pipeline.sources.known_files import KnownFiles
from pipeline.sources.locations import Found, OpenFile, changed, files_of
from pipeline.sources.object_store import objects_of
from pipeline.sources.reading import Reading, Tally, readings
from pipeline.sources.records import columns_of, records
from pipeline.sources.rows import BLOCK_BYTES, Options

SCRATCH = Path("data/scratch")


@dataclass
class Corpus:
    """Reads one source after another, and keeps the facts of each for the manifest."""

    isolation: Isolation
    scratch: Path = SCRATCH
    note: Callable[[str], None] = lambda _: None
    known: KnownFiles | None = None
    """What local files of documents gave in an earlier run; without it all are read."""
    facts: dict[str, dict[str, str | int]] = field(default_factory=dict)

    def read(
        self, source: str, entry: Entry, *, key: str, without: Iterable[Path] = ()
    ) -> Iterator[Record | Rejection]:
        """One record or rejection for each that the source has; what lies at `without` belongs to other sources.

        Asserts that nothing was lost on the way. IntegrityError if the content is not what the entry pins.
        """
        tally = Tally()
        kept = refused = 0
        others = [place.resolve() for place in without]
        if entry.scheme == "huggingface":
            found = records(source, entry, tally.counted(self._of_hub(entry, key, tally)))
        elif self.known is None or entry.scheme or entry.kind != "documents" or entry.sha256:  # a pin is held to bytes
            readings = self._readings(entry, self._files(entry, key, others), tally)
            found = records(source, entry, tally.counted(readings))
        else:
            found = self._known_or_read(self.known, source, entry, self._files(entry, key, others), tally)
        for record in found:
            if isinstance(record, Rejection):
                refused += 1
            else:
                kept += 1
            yield record
        if tally.rows != kept + refused:
            raise AssertionError(f"ingest lost records of {source}: {tally.rows} in, {kept} out, {refused} refused")
        facts = tally.facts()
        if entry.sha256 != facts["sha256"] and entry.sha256 and (tally.files or not refused):
            raise IntegrityError(
                f"params.yaml: {key}: what is read has sha256 {facts['sha256']}, expected {entry.sha256}; "
                "if the new content is right, state its sha256"
            )
        self.facts[source] = {
            **facts, "records": kept, "turned_away": refused, "licence": entry.licence, "origin": entry.origin,
        }  # fmt: skip

    def _known_or_read(
        self, known_files: KnownFiles, source: str, entry: Entry, files: Iterator[Found], tally: Tally
    ) -> Iterator[Record | Rejection]:
        """A document for each file that is known, and what the others hold, in the order of the files."""

        def read_again(found: Found, identity: str) -> Document:
            for record in records(source, entry, self._readings(entry, [found], Tally())):
                if isinstance(record, Document) and record.id == identity:
                    return record
            known_files.forget()
            raise changed(found.path)

        with known_files.of_source(_options(entry)) as known:
            for is_new, run in groupby(known.looked_up(files), key=lambda each: each[1] is None):
                if is_new:
                    read = tally.counted(self._readings(entry, (found for found, _ in run), tally))
                    yield from known.remembering(read, partial(records, source, entry))
                    continue
                for found, file in run:
                    assert file is not None
                    known.keep(file)
                    tally.add(found.name, file.sha256, file.size_bytes)
                    tally.rows += 1
                    own = (file.id, source, found.name, entry.licence, entry.origin, file.text_characters)
                    yield KnownDocument(*own, partial(read_again, found, file.id))

    def _of_hub(self, entry: Entry, key: str, tally: Tally) -> Iterator[Reading]:
        place = entry.path.removeprefix(HUB)
        _count_hub(place, key, tally)
        split = entry.hub_split or entry.split
        columns = _options(entry).columns
        for row in huggingface.rows_of(place, split, entry.configuration, key=key, columns=columns):
            yield Reading(f"{place.rstrip('/').rpartition('/')[2]}/{split}", row, "")

    def _readings(self, entry: Entry, files: Iterable[Found], tally: Tally) -> Iterator[Reading]:
        return readings(
            files, options=_options(entry), tally=tally, isolation=self.isolation, named_format=entry.format,
            scratch=self.scratch,
        )  # fmt: skip

    def _files(self, entry: Entry, key: str, without: Sequence[Path]) -> Iterator[Found]:
        if not entry.scheme:
            return files_of(Path(entry.path), key=key, without=without)
        if entry.scheme in ("http", "https"):
            content = fetched(entry.path, entry.sha256, self.scratch / "downloads", note=self.note)
            name = unquote(urlsplit(entry.path).path.rstrip("/").rpartition("/")[2])
            if entry.format == "auto" and wrapping(name) is None:
                raise ConfigurationError(
                    f"params.yaml: {key}: the address does not tell the format; say it by `format`"
                )
            return iter([Found(name, str(content.resolve()))])
        return objects_of(entry.path, key=key, scratch=self.scratch)


def _options(entry: Entry) -> Options:
    columns = columns_of(entry) if not entry.numbered else None
    return Options(entry.encoding, columns, entry.numbered, entry.delimiter)


def _count_hub(place: str, key: str, tally: Tally) -> None:
    """The files of a local folder, or the name and commit on the hub, which stand for its files."""
    if not Path(place).is_dir():
        tally.add(place, hashlib.sha256(place.encode()).digest(), 0)
        return
    for path in sorted(Path(place).rglob("*")):
        name = path.relative_to(place)
        # What git and the hub's own tools keep beside the data is not read; links are, to files of its cache.
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        digest = hashlib.sha256()
        with OpenFile(str(path.resolve())) as (file, looks):
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        tally.add(name.as_posix(), digest.digest(), looks.st_size)
