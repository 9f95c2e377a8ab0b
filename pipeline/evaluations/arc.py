"""Goes in: ARC (Clark et al., 2018), easy or challenge, in either of two forms. Comes out: its science questions.

The set's own JSON Lines name the choices by letter or number; the form of MosaicML's llm-foundry counts them.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluations.items import Parts, Record, Task, first_record, read_json_lines

METRICS = ("acc", "acc_norm")
_QUESTION = "Question: "


def read(path: Path) -> Task | None:
    """The file's task, by the file's name; None if it is neither form."""
    record = first_record(path)
    name = "arc_challenge" if "challenge" in path.stem.lower() else "arc_easy"
    if record.keys() >= {"question", "choices", "answerKey"}:
        return read_json_lines(path, name, METRICS, _published)
    if record.keys() >= {"query", "choices", "gold"} and str(record["query"]).startswith(_QUESTION):
        return read_json_lines(path, name, METRICS, _counted)
    return None


def _published(record: Record) -> Parts:
    choices = record["choices"]
    return f"{_QUESTION}{record['question']}\nAnswer:", choices["text"], choices["label"].index(record["answerKey"])


def _counted(record: Record) -> Parts:
    return f"{record['query']}\nAnswer:", record["choices"], record["gold"]
