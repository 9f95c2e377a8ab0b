"""Goes in: a conversation as somebody sent it. Comes out: its turns, or one line that says what is wrong with it.

The line never repeats what was said, for it may end in a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from model.conversations import Turn

# With the limit on its characters, what bounds a conversation as it is rendered: every turn brings markers along.
MAX_TURNS = 1000


def turns_of(conversation: object) -> list[Turn]:
    """The turns of a list of {"role": …, "content": …} whose last one waits for the model's; else ConfigurationError.

    Roles are those that training knows. The model answers a user, and a tool.
    """
    from model.conversations import Turn
    from model.templates import ROLES

    if not isinstance(conversation, list | tuple):
        raise ConfigurationError('a conversation must be a list of turns, such as {"role": "user", "content": "Hi"}')
    if not conversation:
        raise ConfigurationError("the conversation is empty; give at least one turn of the user")
    if len(conversation) > MAX_TURNS:
        raise ConfigurationError(f"a conversation of {len(conversation):,} turns; at most {MAX_TURNS:,} are read")
    turns = []
    for number, turn in enumerate(conversation, 1):
        if not isinstance(turn, Mapping):
            raise ConfigurationError(f"turn {number} must be an object with role and content")
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise ConfigurationError(f"turn {number} must have the role {', '.join(ROLES[:-1])} or {ROLES[-1]}")
        if not isinstance(content, str):
            raise ConfigurationError(f"turn {number} must have a content, which is a string")
        turns.append(Turn(role, content))
    if (last := turns[-1].role) not in ("user", "tool"):
        raise ConfigurationError(f"the conversation ends with a turn of the {last}; end it with the user's")
    return turns
