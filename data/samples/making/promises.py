"""Goes in: wordings, and the rows made of them. Comes out: nothing, or the first thing that two splits share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from making.templates import SPLITS, Row, Wordings, pairs, variants, words

# The data sets, and the tables whose fillers must not be known from training.
FILLED_FROM = {
    "spam": ("spam",),
    "instructions": ("fillers",),
    "sentiment": ("sentiment",),
    "translations": ("translations",),
    "summaries": ("fillers",),
    "questions": ("fillers",),
}


def check_wordings(wordings: dict[str, Wordings]) -> None:
    """ValueError if two splits share a template, in any of its variants, or a filler, however it is spelled."""
    for name, table in wordings.items():
        owner: dict[str, str] = {}
        for split, text, _ in _by_split(table):
            for variant in variants(text):
                spelling = re.sub(r"\W+", " ", variant.casefold()).strip() or variant
                if owner.setdefault(spelling, split) != split:
                    raise ValueError(f"wordings/{name}.toml: {variant!r} stands in {owner[spelling]} and in {split}")


def check_rows(files: dict[str, list[Row]], wordings: dict[str, Wordings]) -> None:
    """ValueError if a filler of the validation or test split stands anywhere in the training rows, or a row twice."""
    for dataset, tables in FILLED_FROM.items():
        training = "\n".join(text for row in files[f"{dataset}/train.jsonl"] for text in row.values()).casefold()
        for table in tables:
            for split, text in _fillers(wordings[table]):
                if split != "train" and re.search(rf"(?<!\w){re.escape(text.casefold())}(?!\w)", training):
                    raise ValueError(f"wordings/{table}.toml: {text!r} of {split} stands in {dataset}/train.jsonl")
        rows = ["\0".join(row.values()).casefold() for split in SPLITS for row in files[f"{dataset}/{split}.jsonl"]]
        if len(set(rows)) < len(rows):
            raise ValueError(f"{dataset}: {len(rows) - len(set(rows))} rows stand twice")


def _fillers(table: Wordings) -> Iterator[tuple[str, str]]:
    """Each filler with its split; of a pair in two languages, the English."""
    yield from ((split, text) for split, text, is_filler in _by_split(table) if is_filler)
    for pool in table.values():
        if "second" in pool:
            for split in SPLITS:
                yield from ((split, re.sub(r"=\S+", "", pair)) for pair in pairs(pool, split))


def _by_split(table: Any) -> Iterator[tuple[str, str, bool]]:
    """The split of every template and filler ("train", "train_inputs", "train.kind"), its text, whether it fills."""
    for key, value in table.items() if isinstance(table, dict) else ():
        split = key.removesuffix("_inputs")
        if split not in SPLITS:
            yield from _by_split(value)
        elif isinstance(value, str):
            yield from ((split, text, True) for text in words(value))
        else:
            for templates in value.values() if isinstance(value, dict) else [value]:
                yield from ((split, text, False) for text in templates)
