"""Goes in: HellaSwag (Zellers et al., 2019) in either of two forms. Comes out: its items: which ending is sensible.

The set's own JSON Lines are prepared as the harness does. The six-line form (context, number of the right ending, four
endings), as llama.cpp's tests use it, is prepared already, with the ending's beginning in lower case, and is taken as
it is: its figures are comparable among themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.evaluations.items import Ask, NotAnItem, Parts, Record, Task, first_record, gather, lines, read_json_lines

METRICS = ("acc", "acc_norm")
_KEYS = {"ctx_a", "ctx_b", "activity_label", "endings", "label"}
_LINES = 6
# The part from WikiHow has marks such as [title] and [step] in its texts.
_MARK = re.compile(r"\[.*?\]")


def read(path: Path) -> Task | None:
    """The file's task; None if it is neither form."""
    if first_record(path).keys() >= _KEYS:
        return read_json_lines(path, "hellaswag", METRICS, _item)
    rows = lines(path)
    if len(rows) % _LINES or not all(row.strip() in (b"0", b"1", b"2", b"3") for row in rows[1::_LINES]):
        return None
    return gather("hellaswag", METRICS, _blocks(rows))


def prepared(text: str) -> str:
    """A text as the harness puts it to a model: without marks, and a title a sentence of its own."""
    return _MARK.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _item(record: Record) -> Parts:
    context = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    return prepared(context), [prepared(ending) for ending in record["endings"]], int(record["label"])


def _blocks(rows: list[bytes]) -> Iterator[tuple[str, Ask]]:
    for first in range(0, len(rows), _LINES):
        yield str(first + 1), partial(_block, rows[first : first + _LINES])


def _block(block: list[bytes]) -> Parts:
    try:
        context, gold, *endings = [row.decode() for row in block]
    except UnicodeDecodeError:
        raise NotAnItem("not UTF-8") from None
    return context, endings, int(gold)
