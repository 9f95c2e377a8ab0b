"""Goes in: an id or a text. Comes out: where the record came from, what became of it, and in which tokens it lies.

Every file is read a row group at a time, so a corpus of any size needs the same memory.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import manifest
from pipeline.documents import KINDS, LEARNED, Conversation, part_files, said_in
from pipeline.erasures import REASON, Erasures, learned_text, text_digest
from pipeline.errors import DataError
from pipeline.lineage import DATA
from pipeline.quarantine import REJECTIONS, dropped_record

# Kind of record → folder of its files in data/STAGE form, and the columns a model learns from.
FILES = {kind: ("documents" if kind == "documents" else "examples", LEARNED[record]) for kind, record in KINDS.items()}
REFUSED = "refused bytes"
_MINIMUM_PREFIX = 6


@dataclass(frozen=True)
class TokenPlace:
    """Where a document's tokens lie: `first_token` counts within the split, `offset` within the first of the shards."""

    split: str
    shards: tuple[str, ...]
    offset: int
    first_token: int
    n_tokens: int


@dataclass(frozen=True)
class Trace:
    """One record's way. Of a record that ingest refused, `id` is the sha256 by which the quarantine names it."""

    id: str
    kind: str
    source: str
    name: str
    licence: str | None
    match: str
    """How it was found: by "id", or because its text "equals" the one asked for, or "contains" it."""
    verdict: str
    """kept, waiting for clean, or the reason why it was turned away."""
    quarantine: str | None
    """The stage in whose quarantine it lies."""
    split: str | None
    tokens: TokenPlace | None
    text_digest: str
    """What data/erasures.txt would call its text."""


def by_id(prefix: str, data: Path = DATA) -> list[Trace]:
    """The record whose id begins so, or nothing; DataError if the prefix is too short or means several records."""
    return by_ids([prefix], data)[prefix]


def by_ids(prefixes: Iterable[str], data: Path = DATA) -> dict[str, list[Trace]]:
    """The same for each beginning of an id, in one pass.

    By the sha256 of a file that was refused row by row, each row that was refused is found.
    """
    wanted = {prefix.lower(): prefix for prefix in prefixes}
    if not wanted:
        return {}
    for prefix in wanted:
        if len(prefix) < _MINIMUM_PREFIX:
            raise DataError(
                f"trace: {prefix!r} is too short for an id; give at least {_MINIMUM_PREFIX} characters of it"
            )
    found = [
        _record(kind, row, "id")
        for kind in FILES
        for row in _rows(_file(kind, "ingested", data), _begins(["id"], wanted), looked_at=["id"])
    ]
    if missing := wanted.keys() - _beginnings(found, wanted):
        in_quarantine = ["name", "sha256"]
        found += _quarantined(data, _begins(in_quarantine, missing), in_quarantine, "id")
    traces: dict[str, list[Trace]] = {prefix: [] for prefix in wanted.values()}
    for trace in _followed(distinct(found), data):
        for beginning in _beginnings([trace], wanted):
            traces[wanted[beginning]].append(trace)
    for prefix, those in traces.items():
        if (count := len({trace.id for trace in those})) > 1:
            raise DataError(f"trace: {count:,} records have an id that begins with {prefix}; give more of it")
    return traces


def _begins(columns: list[str], beginnings: Iterable[str]) -> Callable[[pa.Table], Any]:
    """Marks the rows where a value of one of the columns begins with one of these."""
    by_length: dict[int, list[str]] = {}
    for beginning in beginnings:
        by_length.setdefault(len(beginning), []).append(beginning)
    sets = {length: pa.array(those, pa.string()) for length, those in by_length.items()}

    def begins(table: pa.Table) -> Any:
        masks = (
            pc.is_in(pc.utf8_slice_codeunits(table[name].cast(pa.string()), 0, length), value_set=those)
            for name in columns
            for length, those in sets.items()
        )
        return reduce(pc.or_, masks)

    return begins


def _beginnings(traces: list[Trace], wanted: Iterable[str]) -> set[str]:
    """Those of the beginnings that one of the traces' ids has."""
    lengths = {len(beginning) for beginning in wanted}
    return {trace.id[:length] for trace in traces for length in lengths} & set(wanted)


def distinct(traces: Iterable[Trace]) -> list[Trace]:
    """The first of each record: ingested twice it has one id. Rows that were refused of a file share the file's."""
    first: dict[tuple[str, str], Trace] = {}
    for trace in traces:
        first.setdefault((trace.id, trace.text_digest if trace.kind == REFUSED else ""), trace)
    return list(first.values())


def by_text(text: str, data: Path = DATA) -> list[Trace]:
    """Every record whose text equals this one, letter for letter and digit for digit, or contains it as it stands."""
    digest = text_digest(text)
    found = []
    for stage in ("ingested", "clean"):
        for kind, (_, columns) in FILES.items():
            # Cleaning can change a text, so that only the clean one contains what was asked for.

            def wanted(table: pa.Table, columns: tuple[str, ...] = columns) -> Any:
                return _any_contains(table, columns, text, digest)

            rows = _rows(_file(kind, stage, data), wanted)
            found += [_record(kind, row, _match(row, columns, digest)) for row in rows]
    # What clean turned away is known by its id already.
    found += _quarantined(data, lambda table: _any_contains(table, ("raw",), text, digest), None, "contains")
    return _followed(distinct(found), data)


def absent(record_id: str) -> Trace:
    """A document of which data/ knows nothing, as of an earlier day's corpus; models may have met it all the same."""
    return Trace(record_id, "documents", "not known any more", "", None, "id", "not in data/ now", None, None, None, "")


def copies_of(traces: list[Trace], data: Path = DATA) -> list[Trace]:
    """Other records with the same letters and digits as one of these."""
    digests = {trace.text_digest for trace in traces}
    known = {trace.id for trace in traces}
    found = []
    for kind, (_, columns) in FILES.items():

        def same(table: pa.Table, columns: tuple[str, ...] = columns) -> Any:
            return pa.array([text_digest(text) in digests for text in _texts(table, columns)], pa.bool_())

        rows = _rows(_file(kind, "ingested", data), same)
        found += [_record(kind, row, "equals") for row in rows if row["id"] not in known]
    return _followed(distinct(found), data)


def _file(kind: str, stage: str, data: Path) -> Path:
    return data / FILES[kind][0] / stage / f"{kind}.parquet"


def _rows(
    path: Path, wanted: Callable[[pa.Table], Any], looked_at: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows that `wanted` marks; `looked_at` names the columns it needs, all if it is None."""
    for part in part_files(path):
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                mask = pc.fill_null(wanted(file.read_row_group(group, columns=looked_at)), False)
                if pc.any(mask).as_py():
                    yield from file.read_row_group(group).filter(mask).to_pylist()


def _texts(table: pa.Table, columns: tuple[str, ...]) -> list[str]:
    parts = [table[name].to_pylist() for name in columns]
    return [_text(row, columns) for row in zip(*parts, strict=True)]


def _text(values: Iterable[str | bytes], columns: tuple[str, ...]) -> str:
    """What a model would learn from the values of these columns."""
    texts = [value if isinstance(value, str) else value.decode(errors="ignore") for value in values]
    return "\n".join(said_in(texts[0]) if columns == LEARNED[Conversation] else texts)


def _any_contains(table: pa.Table, columns: tuple[str, ...], text: str, digest: str) -> Any:
    mask = pa.array([text_digest(found) == digest for found in _texts(table, columns)], pa.bool_())
    # The turns of a conversation are JSON, and so are many refused lines: there a line end is written \n.
    written = {text, *(json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))}
    for name in columns:
        for form in written:
            pattern: str | bytes = form.encode() if pa.types.is_large_binary(table[name].type) else form
            mask = pc.or_(mask, pc.match_substring(table[name], pattern).combine_chunks())
    return mask


def _match(row: dict[str, Any], columns: tuple[str, ...], digest: str) -> str:
    return "equals" if text_digest(_text((row[name] for name in columns), columns)) == digest else "contains"


def _record(kind: str, row: dict[str, Any], match: str) -> Trace:
    """A record of ours, of which nothing further is known yet."""
    columns = FILES[kind][1]
    return Trace(
        id=row["id"],
        kind=kind,
        source=row["source" if kind == "documents" else "dataset"],  # the source of a translation is a sentence
        name=row.get("name", ""),
        licence=row.get("licence"),
        match=match,
        verdict="waiting for clean",
        quarantine=None,
        split=row.get("split"),
        tokens=None,
        text_digest=text_digest(_text((row[name] for name in columns), columns)),
    )


def _quarantined(
    data: Path, wanted: Callable[[pa.Table], Any], looked_at: list[str] | None, match: str
) -> Iterator[Trace]:
    for path in sorted((data / "quarantine").glob(f"*/{REJECTIONS}")):
        stage = path.parent.name
        for row in _rows(path, wanted, looked_at):
            # clean names a record by its id; ingest names what it could not read by its file.
            ours = row["source"] in FILES and len(row["name"]) == 64
            record = dropped_record(row["source"], row["raw"]) if ours else None
            text = learned_text(record) if record else row["raw"].decode(errors="ignore")
            yield Trace(
                id=row["name"] if ours else row["sha256"],
                kind=row["source"] if ours else REFUSED,
                source="not known any more" if ours else row["source"],
                name="" if ours else row["name"],
                licence=None,
                match=match,
                verdict=row["reason"],
                quarantine=stage,
                split=None,
                tokens=None,
                text_digest=text_digest(text),
            )


def _followed(found: list[Trace], data: Path) -> list[Trace]:
    """The same records with what became of them: the verdict, the split, the tokens. One pass for all of them."""
    followed = {trace.id: trace for trace in found if trace.kind != REFUSED}
    ids = pa.array(followed, pa.string())

    def named(column: str) -> Callable[[pa.Table], Any]:
        return lambda table: pc.is_in(table[column].cast(pa.string()), value_set=ids)

    for kind in FILES:
        for row in _rows(_file(kind, "clean", data), named("id"), ["id"]):
            followed[row["id"]] = replace(followed[row["id"]], verdict="kept")
    for trace in _quarantined(data, named("name"), ["name"], "id"):
        if trace.id in followed and followed[trace.id].verdict != "kept":
            followed[trace.id] = replace(followed[trace.id], verdict=trace.verdict, quarantine=trace.quarantine)
    for record_id, place in token_places(data / "tokens", list(followed)).items():
        followed[record_id] = replace(followed[record_id], split=place.split, tokens=place)
    examples = data / "examples" / "ingested"
    sources = manifest.read(examples).facts.get("sources", {}) if (examples / manifest.MANIFEST).exists() else {}
    for trace in followed.values():
        if trace.licence is None and trace.source in sources:  # a table of examples has no column for it
            followed[trace.id] = replace(trace, licence=sources[trace.source]["licence"])
    return [followed.get(trace.id, trace) for trace in found]


def still_held(erased: Erasures, data: Path = DATA) -> dict[str, Path]:
    """Id → place of every erased record of which data/ holds more than the line that says so, in one pass."""
    ids = pa.array(sorted(erased.documents), pa.string())
    held: dict[str, Path] = {}

    def named(table: pa.Table) -> Any:
        return pc.is_in(table["id"].cast(pa.string()), value_set=ids)

    for kind, (_, columns) in FILES.items():

        def covered(table: pa.Table, columns: tuple[str, ...] = columns) -> Any:
            texts = pa.array([text_digest(text) in erased.texts for text in _texts(table, columns)], pa.bool_())
            return pc.or_(named(table), texts)

        # Cleaning may give another text the letters of an erased one, so in clean tables the ids alone tell.
        for stage, wanted, looked_at in (("ingested", covered, ["id", *columns]), ("clean", named, ["id"])):
            path = _file(kind, stage, data)
            held |= {row["id"]: path for row in _rows(path, wanted, looked_at)}
    for trace in _quarantined(data, lambda table: pc.is_valid(table["name"]), ["name"], "id"):
        if trace.verdict != REASON and (trace.id in erased.documents or trace.text_digest in erased.texts):
            held[trace.id] = data / "quarantine" / str(trace.quarantine)
    for index in (data / "tokens").glob("*.documents.parquet"):
        held |= {row["id"]: index for row in _rows(index, named, ["id"])}
    return held


def token_places(tokens: Path, ids: list[str]) -> dict[str, TokenPlace]:
    """Where the documents of these ids lie in the shards; those that have no tokens are left out."""
    if not (tokens / manifest.MANIFEST).is_file():
        return {}
    shards_of = manifest.read(tokens).facts["shards"]
    wanted = pa.array(ids, pa.string())
    places = {}
    for index in sorted(tokens.glob("*.documents.parquet")):
        split = index.name.removesuffix(".documents.parquet")
        for row in _rows(index, lambda table: pc.is_in(table["id"], value_set=wanted), ["id"]):
            first, n_tokens = row["first_token"], row["n_tokens"]
            ends = list(accumulate(shards_of[split]))
            numbers = range(bisect_right(ends, first), bisect_right(ends, first + max(n_tokens, 1) - 1) + 1)
            shards = tuple(f"{split}-{number:05d}.parquet" for number in numbers)
            places[row["id"]] = TokenPlace(split, shards, first - [0, *ends][numbers[0]], first, n_tokens)
    return places
