"""Goes in: the rows of a source. Comes out: records of its kind, or the reason why a row is none.

The common forms of each kind are known (Alpaca's `output`, ShareGPT's `from` and `value`, SQuAD's `context`); `fields`
in the catalogue names any other. A reason names the key and never quotes what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import (
    Conversation,
    Document,
    Instruction,
    Message,
    Preference,
    Question,
    Record,
    Translation,
    written_turns,
)
from pipeline.sources.catalogue import SPLITS, Entry
from pipeline.sources.json_lines import json_name
from pipeline.sources.reading import Reading
from pipeline.sources.rows import RECORD_LIMIT_BYTES, Refusal, RefusedError, Row
from pipeline.sources.warc import URI

# Our field → the keys it goes by, the first that is there being taken.
_KNOWN_AS: dict[str, dict[str, tuple[str, ...]]] = {
    "documents": {"text": ("text",)},
    "messages": {"text": ("text",), "label": ("label",)},
    "instructions": {
        "instruction": ("instruction",),
        "input": ("input",),
        "response": ("response", "output"),
    },
    "conversations": {"messages": ("messages", "conversations")},
    "translations": {"source": ("source",), "target": ("target",)},
    "questions": {
        "question": ("question",),
        "passage": ("passage", "context"),
        "answer": ("answer", "answers.text.0"),
    },
    "preferences": {"prompt": ("prompt",), "chosen": ("chosen",), "rejected": ("rejected",)},
}
_OPTIONAL = ("input", "passage")
# As they are called by OpenAI, ShareGPT and its kin, and the makers of models.
_CALLED = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "model"),
    "tool": ("tool", "function", "observation"),
}
_ROLES = {name: role for role, names in _CALLED.items() for name in names}
_CALLS = ("tool_calls", "function_call")


def columns_of(entry: Entry) -> frozenset[str]:
    """The top-level keys that may hold something for the entry's records; other columns need not be read."""
    keys = [key for names in _KNOWN_AS[entry.kind].values() for key in names]
    keys += ["split", *(str(key) for key in entry.fields.values())]
    return frozenset(part for key in keys for part in (key, key.split(".")[0]))


def check_fields(entry: Entry) -> None:
    """ValueError if `fields` names a field that records of the kind do not have."""
    known = [*_KNOWN_AS[entry.kind], "split", "name"]
    for name in entry.fields:
        if name not in known or (name == "split" and entry.kind == "documents"):
            raise ValueError(f"fields has {name!r}; {entry.kind} have {', '.join(_KNOWN_AS[entry.kind])}")


def records(source: str, entry: Entry, readings: Iterable[Reading]) -> Iterator[Record | Rejection]:
    """One record or one rejection for each reading, in order."""
    make = _MAKERS[entry.kind]
    for reading in readings:
        row, name = reading.row, reading.name + reading.row.place
        if isinstance(row, Refusal):
            yield _rejection(source, name, row, reading.sha256)
            continue
        try:
            yield make(source, name, entry, row.values)
        except RefusedError as refusal:
            said = Refusal(refusal.reason, row.offset, row.place, row.raw or _bytes_of(row))
            yield _rejection(source, name, said, reading.sha256)
        except UnicodeEncodeError:
            said = Refusal("holds a lone surrogate", row.offset, row.place, row.raw or _bytes_of(row))
            yield _rejection(source, name, said, reading.sha256)


def _rejection(source: str, name: str, refusal: Refusal, sha256: str) -> Rejection:
    return Rejection.of(
        source=source, name=name, offset=refusal.offset, reason=refusal.reason, raw=refusal.raw, sha256=sha256 or None
    )


def _bytes_of(row: Row) -> bytes:
    """A row that has no bytes of its own (of a Parquet file, say), written down for the quarantine."""
    return json.dumps(dict(row.values), ensure_ascii=False, default=repr).encode("utf-8", "surrogatepass")


def _document(source: str, name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    if "name" in entry.fields:
        name = f"{name} {_text(values, 'name', entry)}"
    elif URI in values:
        name = f"{name} {values[URI]}"
    text = _text(values, "text", entry)
    return Document.of(source=source, name=name, licence=entry.licence, origin=entry.origin, text=text)


def _message(source: str, _name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    label = _value(values, "label", entry)
    if isinstance(label, int):  # true and false are too
        label = json.dumps(label)
    elif not isinstance(label, str):
        raise RefusedError(
            f'"{entry.fields.get("label", "label")}" is {json_name(label)}, not a string or a whole number'
        )
    return Message.of(dataset=source, split=_split(values, entry), label=label, text=_text(values, "text", entry))


def _instruction(source: str, _name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    fields = {name: _text(values, name, entry) for name in ("instruction", "input", "response")}
    return Instruction.of(dataset=source, split=_split(values, entry), **fields)


def _conversation(source: str, _name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    turns = _value(values, "messages", entry)
    if isinstance(turns, str):
        turns = _parsed_turns(turns)
    if not isinstance(turns, list) or not turns:
        raise RefusedError('"messages" is not a list of turns')
    written = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RefusedError("a turn is not an object")
        role = turn.get("role", turn.get("from"))
        content = _said(turn.get("content", turn.get("value")))
        if call := next((key for key in _CALLS if turn.get(key)), ""):
            raise RefusedError(f'a turn calls a tool by "{call}", which is not learned from; write the call as content')
        if not isinstance(role, str) or role not in _ROLES:
            raise RefusedError(f'a turn\'s "role" is not one of {", ".join(_ROLES)}')
        if not isinstance(content, str):
            raise RefusedError(f'a turn\'s "content" is {json_name(content)}, not a string')
        written.append({"role": _ROLES[role], "content": content})
    return Conversation.of(dataset=source, split=_split(values, entry), messages=written_turns(written))


def _said(content: object) -> object:
    """What a turn says, also where it comes in parts that are all text."""
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(texts)
    return content


def _parsed_turns(text: str) -> object:
    """The turns of a table's cell, where they can only be written as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError('"messages" is a string that is not JSON') from None


def _translation(source: str, _name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    return Translation.of(
        dataset=source,
        split=_split(values, entry),
        source_language=entry.languages[0],
        target_language=entry.languages[1],
        source=_text(values, "source", entry),
        target=_text(values, "target", entry),
    )


def _question(source: str, _name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    fields = {name: _text(values, name, entry) for name in ("question", "passage", "answer")}
    return Question.of(dataset=source, split=_split(values, entry), **fields)


def _preference(source: str, _name: str, entry: Entry, values: Mapping[str, object]) -> Record:
    fields = {name: _text(values, name, entry) for name in ("prompt", "chosen", "rejected")}
    return Preference.of(dataset=source, split=_split(values, entry), **fields)


_MAKERS: dict[str, Callable[[str, str, Entry, Mapping[str, object]], Record]] = {
    "documents": _document,
    "messages": _message,
    "instructions": _instruction,
    "conversations": _conversation,
    "translations": _translation,
    "questions": _question,
    "preferences": _preference,
}

_MISSING = object()


def _value(values: Mapping[str, object], field: str, entry: Entry) -> object:
    """What a row holds for one of our fields; RefusedError if it has none of its keys."""
    keys = (str(entry.fields[field]),) if field in entry.fields else _KNOWN_AS[entry.kind].get(field, (field,))
    for key in keys:
        if (found := _at(values, key)) is not _MISSING:
            return found
    if field in _OPTIONAL:
        return ""
    raise RefusedError(f'has no "{keys[0]}"')


def _at(values: Mapping[str, object], key: str) -> object:
    """The value under a key, or along a path of keys and numbers with dots between."""
    if key in values:
        return values[key]
    found: object = values
    for part in key.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return _MISSING
    return found


def _text(values: Mapping[str, object], field: str, entry: Entry) -> str:
    value = _value(values, field, entry)
    if value is None and field in _OPTIONAL:
        return ""
    if not isinstance(value, str):
        raise RefusedError(f'"{entry.fields.get(field, field)}" is {json_name(value)}, not a string')
    if len(value) > RECORD_LIMIT_BYTES:
        raise RefusedError(f'"{field}" is too long: more than {RECORD_LIMIT_BYTES:,} characters; split it')
    return value


def _split(values: Mapping[str, object], entry: Entry) -> str:
    if "split" not in entry.fields:
        return entry.split
    split = _text(values, "split", entry)
    if split not in SPLITS:
        raise RefusedError(f'"{entry.fields["split"]}" is not one of {", ".join(SPLITS)}')
    return split
