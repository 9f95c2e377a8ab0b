"""Goes in: a paradigm of BLiMP (Warstadt et al., 2020). Comes out: its pairs: which sentence is grammatical."""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluations.items import Parts, Record, Task, first_record, read_json_lines

METRICS = ("acc",)


def read(path: Path) -> Task | None:
    """The file's task, named after its paradigm; None if it is not of this form."""
    record = first_record(path)
    if not record.keys() >= {"sentence_good", "sentence_bad"}:
        return None
    return read_json_lines(path, f"blimp_{record.get('UID', path.stem)}", METRICS, _item)


def _item(record: Record) -> Parts:
    return "", [record["sentence_good"], record["sentence_bad"]], 0
