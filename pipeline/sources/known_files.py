"""Goes in: the files of a folder. Comes out: which of them look as they did when an earlier run read them.

A file that is one document (text, a web page, a PDF, a .docx) and looks the same need not be opened. What it looks like
is its inode, its size, and when it and its inode were last changed, of which the latter follows the machine's clock and
cannot be set. A file that changed less than two seconds before its source was begun might do so again and look no
other, since FAT tells the time to two seconds, so it is read next time too (git calls that racy). DVC believes less
than all this where it decides whether ingest runs at all.

What is remembered lies in the order in which the files come, so each run walks through the one before it, and memory
does not grow with the corpus.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import manifest
from pipeline.cleaning.rejections import Rejection
from pipeline.columns import table_of
from pipeline.documents import Document, Record
from pipeline.erasures import Erasures
from pipeline.errors import HomegrownError
from pipeline.import_closure import code_of
from pipeline.memo import Memo, code_digest, place_of
from pipeline.sources.locations import Found
from pipeline.sources.reading import Reading
from pipeline.sources.remembered import LIBRARIES, digest_of_text
from pipeline.sources.rows import Options

SETTLED_NS = 2_000_000_000
_AT_ONCE = 4096
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.large_string(), nullable=False),
        pa.field("inode", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64(), nullable=False),
        pa.field("changed_ns", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("format", pa.large_string(), nullable=False),
        pa.field("id", pa.large_string(), nullable=False),
        pa.field("text_characters", pa.int64(), nullable=False),
    ]
)


class Looks(NamedTuple):
    """What tells from outside that a file is the one that it was."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Looks:
        """Those of a file that was asked for them."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class KnownFile(NamedTuple):
    """A file as it looked, its digest, and the document that it gave: a row of what is remembered."""

    name: str
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int
    sha256: bytes
    format: str
    id: str
    text_characters: int


class KnownFiles:
    """What the files of each source gave, open for one run. Made by `open_known_files`."""

    def __init__(self, before: Path, now: Path, erased: Erasures, texts: Memo) -> None:
        """Tables of what was remembered lie in `before`, and of what shall be in `now`, by source."""
        self._before, self._now, self._erased, self._texts = before, now, erased, texts
        self._sources = 0

    @contextmanager
    def of_source(self, options: Options) -> Iterator[KnownSource]:
        """Those of the next source; the sources come in the same order each time."""
        table = f"{self._sources:06d}.parquet"
        self._sources += 1
        with pq.ParquetWriter(self._now / table, _SCHEMA, compression="lz4") as writer:
            known = KnownSource(self._before / table, writer, self._erased, self._texts, options)
            yield known
            known.write()

    def forget(self) -> None:
        """Believe nothing of it any more."""
        shutil.rmtree(self._before, ignore_errors=True)


class KnownSource:
    """What the files of one source gave."""

    def __init__(
        self,
        before: Path,
        writer: pq.ParquetWriter,
        erased: Erasures,
        texts: Memo,
        options: Options,
    ) -> None:
        self._rows = _rows(before)
        self._row = next(self._rows, None)
        self._writer, self._erased, self._texts, self._options = writer, erased, texts, options
        self._settled_ns = time.time_ns() - SETTLED_NS
        self._kept: list[KnownFile] = []

    def looked_up(self, files: Iterable[Found]) -> Iterator[tuple[Found, KnownFile | None]]:
        """The same files, sorted by name as they come, and what is known of each."""
        for found in files:
            known = None if found.reason else self._known(found.name)
            if known and (known[1:5] != looks_of(found.path) or known.id in self._erased.documents):
                known = None
            yield found, known

    def remembering(
        self, read: Iterable[Reading], records: Callable[[Iterator[Reading]], Iterator[Record | Rejection]]
    ) -> Iterator[Record | Rejection]:
        """One record or rejection for each reading, as `records` makes them; documents are kept for the next run."""
        readings, again = tee(read)
        for reading, record in zip(readings, records(again), strict=True):
            if reading.format and reading.found and isinstance(record, Document):
                looks = Looks.of(reading.found)
                settled = max(looks.modified_ns, looks.changed_ns) < self._settled_ns
                if settled and not (self._erased and self._erased.cover(record)):
                    sha256 = bytes.fromhex(reading.sha256)
                    self.keep(KnownFile(reading.name, *looks, sha256, reading.format, record.id, len(record.text)))
            yield record

    def write(self) -> None:
        """Write down what is to be kept."""
        if not self._kept:
            return
        self._writer.write_table(table_of(list(zip(*self._kept, strict=True)), _SCHEMA))
        # What the memory of texts holds for these files would be dropped, for nobody may have asked for it.
        parsed = [known for known in self._kept if known.format != "text"]
        self._texts.keep([digest_of_text(known.sha256, known.format, self._options) for known in parsed])
        self._kept = []

    def keep(self, known: KnownFile) -> None:
        """Keep it for the next run; in the order of the files, or they are not found again."""
        self._kept.append(known)
        if len(self._kept) >= _AT_ONCE:
            self.write()

    def _known(self, name: str) -> KnownFile | None:
        while self._row and self._row.name < name:
            self._row = next(self._rows, None)
        return self._row if self._row and self._row.name == name else None


@contextmanager
def open_known_files(params: Mapping[str, Any], erased: Erasures, texts: Memo) -> Iterator[KnownFiles]:
    """What the runs before remembered of files while these parameters, the texts erased and the readers were the same.

    `texts` is the memory of what files hold, in which the texts of known files stay.
    """
    code = [code_of("pipeline.sources.corpus"), code_digest(libraries=LIBRARIES)]
    place = place_of("known_documents", {"params": params, "erased": sorted(erased.texts), "code": code})
    try:
        manifest.verify(place)
    except (HomegrownError, OSError):
        shutil.rmtree(place, ignore_errors=True)
    with manifest.commit(place, "memo", params={"name": "known_documents"}) as draft:
        yield KnownFiles(place, draft.path, erased, texts)


def looks_of(path: str) -> Looks | None:
    """What a file looks like now; None if it cannot be told."""
    try:
        return Looks.of(os.stat(path, follow_symlinks=False))  # noqa: PTH116 (a Path for each file costs more)
    except OSError:
        return None


def _rows(table: Path) -> Iterator[KnownFile]:
    if not table.is_file():
        return
    with pq.ParquetFile(table, pre_buffer=False) as file:
        for batch in file.iter_batches(_AT_ONCE, use_threads=False):
            yield from map(KnownFile, *(column.to_pylist() for column in batch.columns))
