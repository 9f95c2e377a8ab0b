"""Goes in: a file's name. Comes out: how to read it: what wraps it, whether it is an archive, which reader it needs.

The name decides, never the content: a guess would make two runs over nearly equal files differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipeline.sources import columnar, compression, csv_tables, docx, html, json_lines, pdf, text, warc
from pipeline.sources.rows import Reader


@dataclass(frozen=True)
class Format:
    """One format of files."""

    suffixes: tuple[str, ...]
    read: Reader
    is_table: bool = False
    """A record has columns; else its text is all there is."""
    by_record: bool = True
    """The reader never refuses a file after it has given a record of it."""
    seeks: bool = False
    """The reader jumps about in the file, or asks where in it it is."""
    isolated: bool = False
    """The library may end or stop its process at a damaged file, so the file is tried in a process apart."""
    is_document: bool = False
    """A file of it is one document, whole."""


FORMATS: dict[str, Format] = {
    "text": Format((".txt", ".md", ".rst"), text.read, is_document=True),
    "html": Format((".html", ".htm", ".xhtml"), html.read, is_document=True),
    "pdf": Format((".pdf",), pdf.read, seeks=True, isolated=True, is_document=True),
    "docx": Format((".docx",), docx.read, seeks=True, isolated=True, is_document=True),
    "jsonl": Format((".jsonl", ".ndjson"), json_lines.read, is_table=True),
    "json": Format((".json",), json_lines.read_list, is_table=True, by_record=False),
    "csv": Format((".csv",), csv_tables.read_commas, is_table=True, by_record=False),
    "tsv": Format((".tsv", ".tab"), csv_tables.read_tabs, is_table=True, by_record=False),
    "tsv-quoted": Format((), csv_tables.read_quoted_tabs, is_table=True, by_record=False),
    "parquet": Format((".parquet",), columnar.read_parquet, is_table=True, by_record=False, seeks=True, isolated=True),
    "arrow": Format(
        (".arrow", ".feather"), columnar.read_arrow, is_table=True, by_record=False, seeks=True, isolated=True
    ),
    "warc": Format((".warc",), warc.read, by_record=False, seeks=True),
}
ARCHIVES = (".tar", ".zip")
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
_BY_SUFFIX = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}


@dataclass(frozen=True)
class Wrapping:
    """What a name says: the compression (".gz", or ""), the archive (".tar", ".zip", or ""), and the format's name."""

    compression: str
    archive: str
    format: str

    @property
    def is_document(self) -> bool:
        """Whether the file is one document as it lies there."""
        return not self.compression and not self.archive and FORMATS[self.format].is_document


def wrapping(name: str, named: str = "auto") -> Wrapping | None:
    """How to read a file of that name; None for one that is not read. `named` is a format that the user names."""
    own = name[name.rfind("/") + 1 :].lower()
    if own.count(".") == 1:  # nearly always, and quicker
        return _wrapping(own[own.index(".") :], named)
    _, *suffixes = own.rsplit(".", 3)
    return _wrapping("".join(f".{suffix}" for suffix in suffixes), named)


@lru_cache(maxsize=1024)  # a tree of many files has few endings
def _wrapping(ending: str, named: str) -> Wrapping | None:
    stem, dot, last = ending.rpartition(".")
    if dot + last in _SHORT:
        stem, dot, last = (stem + _SHORT[dot + last]).rpartition(".")
    packed = dot + last if dot + last in compression.SUFFIXES else ""
    if packed:
        stem, dot, last = stem.rpartition(".")
    suffix = dot + last
    if suffix in ARCHIVES and not (packed and suffix == ".zip"):
        return Wrapping(packed, suffix, "")
    form = named if named != "auto" else _BY_SUFFIX.get(suffix, "")
    return Wrapping(packed, "", form) if form else None
