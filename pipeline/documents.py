"""The records that flow through the pipeline, and the Parquet tables that hold them.

Goes in: records, in order. Comes out: the same records, in the same order, whatever the batch size.

A table is a folder of files, its parts, which any Parquet reader takes as one; a single file is a table too. Where a
part ends is told by the records since the last end, so that the same records in another day's corpus make the same
parts: what has not changed need not be worked out, nor kept by DVC, again.

Files carry page checksums and are read with verification: a flipped bit is an error, never another text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import table_of
from pipeline.errors import DataError, IntegrityError, is_of_the_machine

ROWS_PER_GROUP = 4096
# A part has at least so many characters, but for the last, on average half as many again, and at most twice.
# Smaller ones would change less often, and be more files to look after.
PART_CHARACTERS = 1 << 21
_WEIGHT_OF_A_RECORD = 128  # of its columns and its row, in characters: or a part of short messages would be long


def _identity(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn from, and where it came from. `id` is the sha256 of source, name and text as it was ingested.

    `origin` says in words where its source was got, or nothing.
    """

    id: str
    source: str
    name: str
    licence: str
    origin: str
    text: str

    @classmethod
    def of(cls, *, source: str, name: str, licence: str, text: str, origin: str = "") -> Document:
        """A document with its id worked out."""
        return cls(_identity(source, name, text), source, name, licence, origin, text)


@dataclass(frozen=True, slots=True)
class Message:
    """A text with its class. `dataset` is the source it came from, as in every kind of example."""

    id: str
    dataset: str
    split: str
    label: str
    text: str

    @classmethod
    def of(cls, *, dataset: str, split: str, label: str, text: str) -> Message:
        """A message with its id worked out."""
        return cls(_identity(split, label, text), dataset, split, label, text)


@dataclass(frozen=True, slots=True)
class Instruction:
    """A task and the response to learn; `input` is what the task is about, or empty."""

    id: str
    dataset: str
    split: str
    instruction: str
    input: str
    response: str

    @classmethod
    def of(cls, *, dataset: str, split: str, instruction: str, input: str, response: str) -> Instruction:
        """An instruction with its id worked out."""
        return cls(_identity(split, instruction, input, response), dataset, split, instruction, input, response)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a talk: `messages` is a JSON list of {"role": system, user, assistant or tool, "content": …}."""

    id: str
    dataset: str
    split: str
    messages: str

    @classmethod
    def of(cls, *, dataset: str, split: str, messages: str) -> Conversation:
        """A conversation with its id worked out."""
        return cls(_identity(split, messages), dataset, split, messages)


@dataclass(frozen=True, slots=True)
class Translation:
    """A sentence in two languages."""

    id: str
    dataset: str
    split: str
    source_language: str
    target_language: str
    source: str
    target: str

    @classmethod
    def of(
        cls, *, dataset: str, split: str, source_language: str, target_language: str, source: str, target: str
    ) -> Translation:
        """A translation with its id worked out."""
        identity = _identity(split, source_language, target_language, source, target)
        return cls(identity, dataset, split, source_language, target_language, source, target)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the passage that holds the answer (or nothing), and the answer."""

    id: str
    dataset: str
    split: str
    question: str
    passage: str
    answer: str

    @classmethod
    def of(cls, *, dataset: str, split: str, question: str, passage: str, answer: str) -> Question:
        """A question with its id worked out."""
        return cls(_identity(split, question, passage, answer), dataset, split, question, passage, answer)


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt and two responses, of which people liked the first better."""

    id: str
    dataset: str
    split: str
    prompt: str
    chosen: str
    rejected: str

    @classmethod
    def of(cls, *, dataset: str, split: str, prompt: str, chosen: str, rejected: str) -> Preference:
        """A preference with its id worked out."""
        return cls(_identity(split, prompt, chosen, rejected), dataset, split, prompt, chosen, rejected)


class Record(Protocol):
    """Any of the record types above: a dataclass whose fields are all strings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str:
        """The sha256 of what the record says."""


# Every kind of record by the name of its table (`instructions.parquet`), in the order in which stages take them.
KINDS: dict[str, type[Record]] = {
    "documents": Document,
    "messages": Message,
    "instructions": Instruction,
    "conversations": Conversation,
    "translations": Translation,
    "questions": Question,
    "preferences": Preference,
}

# What a model would learn from a record, whatever its source, name or split: rules look at these fields, and a repeated
# or an erased record is known by them.
LEARNED: dict[type[Record], tuple[str, ...]] = {
    Document: ("text",),
    Message: ("text",),
    Instruction: ("instruction", "input", "response"),
    Conversation: ("messages",),
    Translation: ("source", "target"),
    Question: ("question", "passage", "answer"),
    Preference: ("prompt", "chosen", "rejected"),
}

R = TypeVar("R", bound=Record)
T = TypeVar("T")


def learned_texts(record: Record) -> list[str]:
    """The texts of a record that a model would learn from: fields, or what each turn of a conversation says."""
    if isinstance(record, Conversation):
        return said_in(record.messages)
    return [getattr(record, name) for name in LEARNED[type(record)]]


def said_in(messages: str) -> list[str]:
    """What each turn of a conversation says."""
    return [turn["content"] for turn in json.loads(messages)]


def with_texts(record: R, texts: Sequence[str]) -> R:
    """The record with others in the place of its `learned_texts`; its id stays that of what came."""
    if isinstance(record, Conversation):
        turns = [{**turn, "content": text} for turn, text in zip(json.loads(record.messages), texts, strict=True)]
        return replace(record, messages=written_turns(turns))
    return replace(record, **dict(zip(LEARNED[type(record)], texts, strict=True)))


def written_turns(turns: Sequence[Mapping[str, str]]) -> str:
    """Turns of a role and a content each, as a conversation holds them."""
    return json.dumps(turns, ensure_ascii=False, separators=(",", ":"))


def part_files(table: Path) -> list[Path]:
    """The files of a table in the order of their records: a file itself, or those of a folder; none where there is
    neither."""
    return [table] if table.is_file() else sorted(table.glob("*.parquet"))


def part_name(number: int) -> str:
    """What the part of this number is called in its table's folder."""
    return f"{number:06d}.parquet"


@lru_cache(maxsize=8)
def _columns_of(kind: type[Record]) -> Callable[[Record], tuple[str, ...]]:
    return attrgetter(*(field.name for field in fields(kind)))


def n_characters(record: Record) -> int:
    """How many characters the columns of a record hold."""
    return sum(map(len, _columns_of(type(record))(record)))


def in_parts(records: Iterable[R], size_of: Callable[[R], int] = n_characters) -> Iterator[list[R]]:
    """Records in the lists that are a table's parts; `size_of` says how many characters the columns of one hold.

    After enough characters each record may be the last, by a chance that grows with its length and is drawn from its
    id. So a record more or less moves the ends near it, and those far from it stay where they were.
    """
    part: list[R] = []
    size = 0
    for record in records:
        part.append(record)
        own = size_of(record) + _WEIGHT_OF_A_RECORD
        size += own
        if size >= PART_CHARACTERS:
            drawn = int(record.id[:8], 16) / 2**32
            if drawn < own / (PART_CHARACTERS / 2) or size >= 2 * PART_CHARACTERS:
                yield part
                part, size = [], 0
    if part:
        yield part


def write_table(
    records: Iterable[R],
    kind: type[R],
    folder: Path,
    write: Callable[[list[R], type[R], Path], Any] | None = None,
    size_of: Callable[[R], int] = n_characters,
) -> int:
    """Write records as the parts of a new table, each by `write` or `write_records`; the count of them comes back."""
    folder.mkdir()
    rows = 0
    for number, part in enumerate(in_parts(records, size_of)):
        place = folder / part_name(number)
        (write or write_records)(part, kind, place)
        rows += pq.read_metadata(place).num_rows
    return rows


def digest_of_records(records: Sequence[R], kind: type[R]) -> bytes:
    """A digest of all that records of one kind say and where they came from; their ids stand for their texts."""
    names = [field.name for field in fields(kind) if field.name not in LEARNED[kind]]
    rows = [[getattr(record, name) for name in names] for record in records]
    return hashlib.sha256(json.dumps([kind.__name__, rows]).encode()).digest()


def write_records(
    records: Iterable[R], kind: type[R], path: Path | BinaryIO, compression: Literal["zstd", "lz4"] = "zstd"
) -> int:
    """Write records to one Parquet file in order, a row group at a time; the count of them comes back.

    What is read once and deleted is written fastest with lz4.
    """
    schema = _schema(kind)
    rows = 0
    source = iter(records)
    with _writer(path, schema, compression) as writer:
        while group := list(itertools.islice(source, ROWS_PER_GROUP)):
            writer.write_table(table_of([[getattr(r, name) for r in group] for name in schema.names], schema))
            rows += len(group)
    return rows


def write_columns(records: pa.Table, kind: type[R], path: Path | BinaryIO) -> None:
    """The same file of the same records, where they are columns already and need not become objects."""
    schema = _schema(kind)
    with _writer(path, schema) as writer:
        writer.write_table(records.cast(schema).combine_chunks(), row_group_size=ROWS_PER_GROUP)


def _schema(kind: type[R]) -> pa.Schema:
    return pa.schema([pa.field(f.name, pa.large_string(), nullable=False) for f in fields(kind)])


def _writer(path: Path | BinaryIO, schema: pa.Schema, compression: str = "zstd") -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression=compression, write_page_checksum=True, store_schema=False)


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a table in order, holding one row group at a time; IntegrityError if a page is damaged."""
    for batch in read_batches(path, kind):
        yield from records_of(batch, kind)


def records_of(batch: pa.RecordBatch, kind: type[R]) -> Iterator[R]:
    """The records of a batch of `read_batches`."""
    return itertools.starmap(kind, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def in_batches(
    items: Iterable[T], size_of: Callable[[T], int], most: int = 1 << 19, count: int = 4096
) -> Iterator[list[T]]:
    """Items in lists of about so many characters, and at most so many items; a long one may stand alone."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= most or len(batch) >= count:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_batches(path: Path, kind: type[R]) -> Iterator[pa.RecordBatch]:
    """The same as columns, in the order of the kind's fields, for who needs no objects."""
    for file in part_files(path) or [path]:
        yield from _read_file(file, kind)


def _read_file(path: Path, kind: type[R]) -> Iterator[pa.RecordBatch]:
    names = [f.name for f in fields(kind)]
    problem = f"{path}: not a readable Parquet file of {kind.__name__} records"
    rows = 0
    try:
        # With pre_buffer, which is the default, pyarrow holds the whole compressed file until the last row is read.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            found = {field.name: field.type for field in file.schema_arrow}
            missing = [name for name in names if name not in found]
            if missing and found.keys() < set(names):  # with another name in its place, that is damage
                raise DataError(f"{path}: has no column {', '.join(missing)}; run the stage that makes it again")
            if found != dict.fromkeys(names, pa.string()):
                raise IntegrityError(f"{problem}: its columns are not {', '.join(names)}")
            # Each thread keeps memory of its own: they cost 80 MB where many parts are read.
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=names, use_threads=False):
                # A damaged header can pass text off as whole that is not UTF-8.
                batch.validate(full=True)
                rows += len(batch)
                yield batch.select(names)
            metadata = file.metadata
            in_groups = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    except (pa.ArrowException, OSError, ValueError) as error:
        if is_of_the_machine(error):
            raise
        raise IntegrityError(problem) from error
    # A damaged page header has no checksum, and makes the page look like the file's end.
    if not rows == metadata.num_rows == in_groups:
        raise IntegrityError(f"{problem}: {rows:,} rows found, {metadata.num_rows:,} written")
