"""Goes in: JSON, as lines of objects or as one list of them. Comes out: a row per object, or why it is none.

Every good line survives its neighbours: a line is decoded, parsed and checked on its own. A list has no such borders,
so a broken one is refused as a whole.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from pipeline.sources.rows import (
    BLOCK_BYTES,
    RECORD_LIMIT_BYTES,
    Budget,
    Options,
    Refusal,
    RefusedError,
    Row,
    lines,
)

_SPACE = " \t\r\n"


def read(stream: BinaryIO, _options: Options, _budget: Budget) -> Iterator[Row | Refusal]:
    """One result per line; lines of white space only are none."""
    for number, (offset, line, length) in enumerate(lines(stream), start=1):
        place = f":{number}"
        try:
            if length > RECORD_LIMIT_BYTES:
                raise RefusedError(f"too long: {length:,} bytes, of at most {RECORD_LIMIT_BYTES:,} in a line")
            if offset == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line and not line.isspace():
                yield Row(parsed(line), offset, place, line)
        except RefusedError as refusal:
            yield Refusal(refusal.reason, offset, place, line)


def parsed(line: bytes) -> dict[str, object]:
    """The one object of a line; RefusedError for what is not JSON, is no object, or means more than one thing."""
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RefusedError(f"is not UTF-8: byte {error.start} of the line, {error.reason}") from None
    except json.JSONDecodeError as error:
        raise RefusedError(f"is not JSON: character {error.pos} of the line") from None
    except RecursionError:
        raise RefusedError("is nested too deeply") from None
    except ValueError:  # an integer of more digits than Python will convert
        raise RefusedError("holds a number that is too long") from None
    return _object(value)


def read_list(stream: BinaryIO, options: Options, _budget: Budget) -> Iterator[Row | Refusal]:
    """The objects of one JSON list, or the one object that the file is; memory holds one at a time."""
    text = _Text(stream)
    opening = text.next_character()
    if opening not in ("[", "{"):
        raise RefusedError("is not a JSON list of objects" if opening else "is empty")
    number = 0
    if opening == "{":
        yield Row(_object(text.value()))
    else:
        text.skip()
        closed = text.next_character() == "]"
        while not closed:
            number += 1
            value = text.value()
            try:
                yield Row(_object(value), 0, f":{number}")
            except RefusedError as refusal:
                yield Refusal(refusal.reason, 0, f":{number}", json.dumps(value).encode())
            ending = text.next_character()
            if ending not in (",", "]"):
                raise RefusedError(f"is not JSON: the list is broken or cut off after record {number:,}")
            text.skip()
            closed = ending == "]"
        text.skip(0 if number else 1)
    if text.next_character():
        raise RefusedError("is not one JSON value: something follows it; name it .jsonl if it holds lines")


class _Text:
    """The text of a stream, of which only the value at hand is held."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False

    def _more(self, size: int = BLOCK_BYTES) -> None:
        block = self._stream.read(size)
        self._ended = not block
        try:
            self._text = self._text[self._at :] + self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            raise RefusedError(f"is not UTF-8: {error.reason}") from None
        self._at = 0

    def next_character(self) -> str:
        """The next character that is not white space, without taking it; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def skip(self, count: int = 1) -> None:
        """Take characters that were looked at."""
        self._at += count

    def value(self) -> object:
        """Take the next JSON value; RefusedError if there is none within the limit."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise RefusedError("is nested too deeply") from None
            except json.JSONDecodeError:
                held = len(self._text) - self._at
                if self._ended or held > RECORD_LIMIT_BYTES:
                    raise RefusedError("is not JSON: a record is broken, cut off, or too long") from None
                self._more(max(BLOCK_BYTES, held))  # doubling, so that a long value is not parsed a thousand times
                continue
            except ValueError:
                raise RefusedError("holds a number that is too long") from None
            if end < len(self._text) or self._ended:
                self._at = end
                return value
            self._more()  # a number may go on in the next block


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RefusedError(f"is {json_name(value)}, not a JSON object")
    return value


def json_name(value: object) -> str:
    """What JSON calls a value of that type."""
    return _NAMES.get(type(value), "a number")


_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null", bytes: "bytes"}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise RefusedError("names a key twice")
    return values


def _no_constant(_: str) -> NoReturn:
    raise RefusedError("holds NaN or Infinity, which JSON has not")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
