"""`homegrown chat`. Goes in: what somebody types, or a JSON conversation a line. Comes out: what the assistant says."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.loaded_model import LoadedModel, Writing
from pipeline.talks import turns_of
from pipeline.tracking import registry

Message = dict[str, str]


def talk(model: str, weights: str, system: str | None, how: Writing) -> None:
    """Talk at the terminal until an empty line; off a terminal, answer every line of the input."""
    champion = registry.load_champion(model)
    champion.require_template()
    if weights != "float32":
        champion = champion.in_fewer_bits(weights)
    scene = [] if system is None else [_message("system", system)]
    if sys.stdin.isatty():
        _talk_by_turns(champion, scene, how)
    else:
        _answer_lines(champion, scene, how)


def _talk_by_turns(champion: LoadedModel, scene: list[Message], how: Writing) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # its import gives input() a line that can be edited
    print(f"talking with {champion.name}; an empty line ends it", file=sys.stderr)
    said = list(scene)
    while asked := _ask():
        said.append(_message("user", asked))
        [answer] = champion.chat([said], **how)
        said.append(_message("assistant", answer))
        print(answer, flush=True)


def _ask() -> str:
    """What was typed; nothing at the end of the input. Whatever ends it leaves the prompt's line."""
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return ""
    except KeyboardInterrupt:
        print()
        raise


def _answer_lines(champion: LoadedModel, scene: list[Message], how: Writing) -> None:
    """A line is answered before the next is read, so that another program can hold a conversation."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        conversation = _parsed(line, number)
        if conversation[0]["role"] != "system":
            conversation = [*scene, *conversation]
        [answer] = champion.chat([conversation], **how)
        print(json.dumps(_message("assistant", answer)), flush=True)


def _parsed(line: bytes, number: int) -> list[Message]:
    """The conversation of a line; ConfigurationError names the line, and never repeats it."""
    try:
        conversation: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"line {number} is not JSON; give a list of turns in each line") from None
    try:
        turns = turns_of(conversation)
    except ConfigurationError as error:
        raise ConfigurationError(f"line {number}: {error}") from error
    return [_message(turn.role, turn.content) for turn in turns]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
