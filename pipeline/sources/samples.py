"""Goes in: a file of JSON lines of one data set. Comes out: a record per line, or the reason it is refused.

Every good line survives its neighbours: a line is decoded, parsed and checked on its own. Lines end at "\\n" only.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import KINDS, Record
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.manifest import sha256_file
from pipeline.sources import json_lines
from pipeline.sources.rows import RefusedError, lines

LINE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class DataSet:
    """What a folder of data/samples holds: train.jsonl, validation.jsonl and test.jsonl of one kind."""

    kind: str
    """A key of `pipeline.documents.KINDS`."""
    labels: tuple[str, ...] = ()
    """The classes that its messages may have."""


DATASETS: dict[str, DataSet] = {
    "spam": DataSet("messages", ("ham", "spam")),
    "sentiment": DataSet("messages", ("negative", "positive")),
    "instructions": DataSet("instructions"),
    "summaries": DataSet("instructions"),
    "translations": DataSet("translations"),
    "questions": DataSet("questions"),
}

_KEYS: dict[str, tuple[str, ...]] = {
    "messages": ("text", "label"),
    "instructions": ("instruction", "input", "response"),
    "translations": ("source_language", "target_language", "source", "target"),
    "questions": ("question", "passage", "answer"),
}


def present(samples: Path, kind: str) -> list[str]:
    """The data sets of a kind that have a folder below `samples`, in the order of the table."""
    return [name for name, dataset in DATASETS.items() if dataset.kind == kind and (samples / name).is_dir()]


def examples(file: Path, dataset: str, *, split: str, key: str = "data/samples") -> Iterator[Record | Rejection]:
    """One result per line. ConfigurationError if the file is not there, IntegrityError if it changes while it is read.

    The file is read three times: for the digest that every rejection names, for the lines, and for the digest again.
    """
    if not file.is_file():
        raise ConfigurationError(f"params.yaml: {key}: there is no file {file}; correct the path")
    kind, labels = DATASETS[dataset].kind, DATASETS[dataset].labels
    record: Any = KINDS[kind]
    digest = sha256_file(file)
    with file.open("rb") as stream:
        for offset, line, line_bytes in lines(stream, LINE_LIMIT_BYTES):
            try:
                if line_bytes > LINE_LIMIT_BYTES:
                    raise RefusedError(f"too long: {line_bytes:,} bytes, of at most {LINE_LIMIT_BYTES:,} in a line")
                values = _parse(line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line, _KEYS[kind])
                if labels and values["label"] not in labels:
                    raise RefusedError(f'"label" is not one of {", ".join(labels)}')
                yield record.of(dataset=dataset, split=split, **values)
            except RefusedError as refusal:
                yield Rejection.of(
                    source=dataset, name=file.name, offset=offset, reason=refusal.reason, sha256=digest, raw=line
                )
    if sha256_file(file) != digest:
        raise IntegrityError(f"{file}: the file changed while it was read; run again when nothing writes to it")


def _parse(line: bytes, keys: tuple[str, ...]) -> dict[str, str]:
    """The line's values by key, all of them strings that UTF-8 can hold; RefusedError otherwise."""
    values = json_lines.parsed(line)
    strings: dict[str, str] = {}
    for key in keys:
        if key not in values:
            raise RefusedError(f'has no "{key}"')
        value = values[key]
        if not isinstance(value, str):
            raise RefusedError(f'"{key}" is {json_lines.json_name(value)}, not a string')
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RefusedError(f'"{key}" holds a lone surrogate') from None
        strings[key] = value
    if len(values) > len(keys):
        raise RefusedError(f"has keys besides {', '.join(keys)}")
    return strings
