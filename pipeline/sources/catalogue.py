"""Goes in: an entry of `ingest.catalogue` in params.yaml. Comes out: a source that is known to be described in full."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.sources.formats import FORMATS
from pipeline.sources.samples import DATASETS

Kind = Literal["documents", "messages", "instructions", "conversations", "translations", "questions", "preferences"]
SPLITS = ("train", "validation", "test")
HUB = "huggingface:"
_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One further source: where it is, what its records are, and under what terms."""

    path: str
    """A file or folder inside `ingest.texts`, an http(s) URL, s3://… or another of fsspec's, or huggingface:…"""
    kind: Kind
    """What its records become."""
    licence: str
    """Its licence, recorded with each document and in the manifest."""
    origin: str
    """Where it comes from, in a line for whoever asks later; recorded likewise."""
    format: str = "auto"
    """auto takes each file's format from its name; else the one format of all its files."""
    encoding: str = "utf-8"
    """Of its text; UTF-8 unless said otherwise, never guessed."""
    fields: dict[str, str | int] = field(default_factory=dict)
    """Our field → their key (dots lead inwards: answers.text.0), or a column's number in a table without a header."""
    split: str = "train"
    """train, validation or test, for examples; or a field named `split` says it for each."""
    delimiter: Literal[",", ";", "|"] = ","
    """What stands between the columns of its .csv files."""
    configuration: str = ""
    """Of a data set in the hub's layout that has several: which one."""
    hub_split: str = ""
    """What the hub calls the split to read, where that is not `split`: train_sft, say."""
    languages: tuple[str, ...] = ()
    """For translations: the languages of source and target, such as [en, de]."""
    sha256: str = ""
    """Of the content; an http(s) URL and a local file outside `ingest.texts` need it."""

    def __post_init__(self) -> None:
        if self.format != "auto" and self.format not in FORMATS:
            near = difflib.get_close_matches(self.format, FORMATS, n=1)
            raise ValueError(
                f"format is none of auto, {', '.join(FORMATS)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(f"encoding is {self.encoding!r}, which Python does not know") from None
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits in small letters; `sha256sum FILE` prints them")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}")
        if (self.kind == "translations") != (len(self.languages) == 2) or len(self.languages) not in (0, 2):
            raise ValueError("languages must name two, source and target, for translations, and none for other kinds")
        kinds = {type(value) for value in self.fields.values()}
        if len(kinds) > 1:
            raise ValueError("fields must be all names, or all column numbers for a table without a header")
        if not self.licence.strip() or not self.origin.strip():
            raise ValueError("licence and origin must be said; write `not stated` if nobody knows")
        if self.scheme in ("http", "https") and not self.sha256:
            raise ValueError("sha256 is missing: what a URL holds may change, and only a digest notices")

    @property
    def scheme(self) -> str:
        """The scheme of a remote address ("s3"), "huggingface", or "" for a path on this machine."""
        if self.path.startswith(HUB):
            return "huggingface"
        found = _REMOTE.match(self.path)
        return found[1].lower() if found else ""

    @property
    def local_path(self) -> str:
        """Its path if it may lie on this machine, be it in the hub's layout; else ""."""
        return self.path.removeprefix(HUB) if self.scheme in ("", "huggingface") else ""

    @property
    def numbered(self) -> bool:
        """Whether its tables have no header."""
        return any(isinstance(value, int) for value in self.fields.values())


def check_sources(sources: Iterable[str], built_in: Iterable[str], catalogue: dict[str, Entry], texts: str) -> None:
    """Refuse a source that is nowhere described, one that hides another, or one that DVC could not see change."""
    known = [*built_in, *catalogue]
    for name in catalogue:
        if name in built_in:
            raise ValueError(f"catalogue.{name} has the name of a source that is built in; choose another")
        if name in DATASETS:
            raise ValueError(f"catalogue.{name} has the name of a data set in data/samples; choose another")
    for name in sources:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"sources names {name!r}, which is not in catalogue; {hint}")
    for name, entry in catalogue.items():
        local = entry.local_path
        if not local or (entry.scheme == "huggingface" and not Path(local).exists()):
            continue
        # Named as the user names them: two spellings of one place need not be found out before anything is read.
        inside = Path(local).absolute().is_relative_to(Path(texts).absolute()) and ".." not in Path(local).parts
        if not inside and not entry.sha256:
            raise ValueError(
                f"catalogue.{name}.path is {entry.path}, outside ingest.texts ({texts}), where DVC would not see it "
                "change; move it there, or state its sha256"
            )
