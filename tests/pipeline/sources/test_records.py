"""Rows become records of their source's kind, whatever common form they came in, or a reason that quotes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import KINDS, Conversation, Instruction, Message, Preference, Question, Record, Translation
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation

TURNS = '[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ho"}]'
LANGUAGES = {"languages": ("en", "de")}
GOOD: list[tuple[str, dict[str, object], dict[str, object], Record]] = [
    ("messages", {"text": "a", "label": "ham"}, {}, Message.of(dataset="s", split="train", label="ham", text="a")),
    (
        "instructions",  # Alpaca
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"split": "test"},
        Instruction.of(dataset="s", split="test", instruction="Add", input="1 2", response="3"),
    ),
    (
        "instructions",  # GSM8K
        {"question": "Why?", "answer": "So."},
        {"fields": {"instruction": "question", "response": "answer"}},
        Instruction.of(dataset="s", split="train", instruction="Why?", input="", response="So."),
    ),
    (
        "conversations",  # ChatML
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {},
        Conversation.of(dataset="s", split="train", messages=TURNS),
    ),
    (
        "conversations",  # ShareGPT
        {"id": 7, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        {},
        Conversation.of(dataset="s", split="train", messages=TURNS),
    ),
    (
        "conversations",  # in parts, of a developer
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind"}]}
            ]
        },
        {},
        Conversation.of(dataset="s", split="train", messages='[{"role":"system","content":"Be\\nkind"}]'),
    ),
    ("messages", {"text": "a", "label": 1}, {}, Message.of(dataset="s", split="train", label="1", text="a")),
    ("messages", {"text": "a", "label": True}, {}, Message.of(dataset="s", split="train", label="true", text="a")),
    (
        "translations",  # the hub's form
        {"translation": {"en": "cat", "de": "Katze"}},
        {**LANGUAGES, "fields": {"source": "translation.en", "target": "translation.de"}},
        Translation.of(
            dataset="s", split="train", source_language="en", target_language="de", source="cat", target="Katze"
        ),
    ),
    (
        "questions",  # SQuAD
        {"question": "Who?", "context": "I am.", "answers": {"text": ["I", "me"]}, "set": "validation"},
        {"fields": {"split": "set"}},
        Question.of(dataset="s", split="validation", question="Who?", passage="I am.", answer="I"),
    ),
    (
        "preferences",
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {},
        Preference.of(dataset="s", split="train", prompt="p", chosen="c", rejected="r"),
    ),
]
BAD: list[tuple[str, dict[str, object], dict[str, object], str]] = [
    ("messages", {"text": "a"}, {}, 'has no "label"'),
    ("instructions", {"instruction": "a", "output": None}, {}, '"response" is null, not a string'),
    ("conversations", {"messages": []}, {}, '"messages" is not a list of turns'),
    ("conversations", {"messages": [{"role": "x", "content": ""}]}, {}, 'a turn\'s "role" is not one of'),
    ("conversations", {"messages": [{"role": "user"}]}, {}, 'a turn\'s "content" is null, not a string'),
    ("conversations", {"messages": ["Hi"]}, {}, "a turn is not an object"),
    (
        "conversations",
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
        {},
        'a turn calls a tool by "tool_calls", which is not learned from',
    ),
    ("messages", {"text": "a", "label": 1.5}, {}, '"label" is a number, not a string or a whole number'),
    ("translations", {"source": "cat"}, LANGUAGES, 'has no "target"'),
    ("questions", {"question": "Who?", "answers": {"text": []}}, {}, 'has no "answer"'),
    ("preferences", {"prompt": "p", "chosen": ["c"], "rejected": "r"}, {}, '"chosen" is a list, not a string'),
    ("preferences", {"prompt": "\ud800", "chosen": "c", "rejected": "r"}, {}, "holds a lone surrogate"),
]


def one(folder: Path, kind: str, row: dict[str, object], more: dict[str, object]) -> Record | Rejection:
    """What becomes of one line of JSON."""
    (folder / "a.jsonl").write_text(json.dumps(row) + "\n")
    entry = Entry(path=str(folder), kind=kind, licence="x", origin="y", **more)  # type: ignore[arg-type]
    (record,) = Corpus(Isolation()).read("s", entry, key="k")
    return record


@pytest.mark.parametrize(("kind", "row", "more", "expected"), GOOD)
def test_the_common_forms_are_known(
    tmp_path: Path, kind: str, row: dict[str, object], more: dict[str, object], expected: Record
) -> None:
    """Alpaca, ShareGPT, ChatML, SQuAD and the hub's translations become our kinds."""
    assert one(tmp_path, kind, row, more) == expected
    assert type(expected) is KINDS[kind]


@pytest.mark.parametrize(("kind", "row", "more", "reason"), BAD)
def test_a_row_that_is_none_is_refused(
    tmp_path: Path, kind: str, row: dict[str, object], more: dict[str, object], reason: str
) -> None:
    """What is missing, or of another type, is named; the line is kept for the quarantine."""
    record = one(tmp_path, kind, row, more)
    assert isinstance(record, Rejection)
    assert record.reason.startswith(reason)
    assert json.loads(record.raw) == row


def test_a_table_without_a_header_is_read_by_numbers(tmp_path: Path) -> None:
    """`fields` of column numbers reads a label TAB text file from its first line on; quotes are text."""
    (tmp_path / "sms.tsv").write_text('ham\tHello, "you\nspam\t"Win!"\n')
    entry = Entry(path=str(tmp_path), kind="messages", licence="x", origin="y", fields={"label": 0, "text": 1})
    assert list(Corpus(Isolation()).read("s", entry, key="k")) == [
        Message.of(dataset="s", split="train", label="ham", text='Hello, "you'),
        Message.of(dataset="s", split="train", label="spam", text='"Win!"'),
    ]
