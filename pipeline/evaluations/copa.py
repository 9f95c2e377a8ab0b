"""Goes in: COPA (Roemmele et al., 2011) in either of two forms. Comes out: its items: what was the cause or effect.

The harness drops the premise's full stop, joins with "because" or "therefore", and writes choices in lower case with a
space of their own, so that two spaces stand before each; so do we. SuperGLUE's JSON Lines hold the parts; the form of
MosaicML's llm-foundry has them joined by a comma, which is taken out.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.evaluations.items import NotAnItem, Parts, Record, Task, first_record, read_json_lines

METRICS = ("acc",)
_CONNECTORS = {"cause": "because", "effect": "therefore"}
_JOINED = re.compile(r"(.+), (because|therefore)", re.DOTALL)


def read(path: Path) -> Task | None:
    """The file's task; None if it is neither form."""
    record = first_record(path)
    if record.keys() >= {"premise", "choice1", "choice2", "question", "label"}:
        return read_json_lines(path, "copa", METRICS, _published)
    if record.keys() >= {"query", "choices", "gold"} and _JOINED.fullmatch(str(record["query"])):
        return read_json_lines(path, "copa", METRICS, _joined)
    return None


def _published(record: Record) -> Parts:
    context = f"{record['premise'].strip()[:-1]} {_CONNECTORS[record['question']]}"
    return context, [_choice(record["choice1"]), _choice(record["choice2"])], record["label"]


def _joined(record: Record) -> Parts:
    parts = _JOINED.fullmatch(record["query"])
    if parts is None:
        raise NotAnItem("does not end in because or therefore")
    return f"{parts[1]} {parts[2]}", [_choice(choice) for choice in record["choices"]], record["gold"]


def _choice(text: str) -> str:
    return f" {text[0].lower()}{text[1:]}"
