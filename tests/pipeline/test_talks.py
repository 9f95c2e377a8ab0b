"""A conversation is read as its turns, or refused in one line that keeps what was said to itself."""

from __future__ import annotations

from typing import Any

import pytest

from model.conversations import Turn
from pipeline.errors import ConfigurationError
from pipeline.talks import turns_of

HI = {"role": "user", "content": "Hi"}


def test_turns_come_in_the_order_in_which_they_were_said() -> None:
    """Every role of training is known, other keys are passed over, and a tool's turn may be the last."""
    said = [("system", "Be kind."), ("user", ""), ("assistant", "Hello."), ("tool", "7")]
    assert turns_of([{"role": role, "content": content, "name": "Ann"} for role, content in said]) == [
        Turn(*turn) for turn in said
    ]


@pytest.mark.parametrize(
    ("conversation", "said"),
    [
        ([], "the conversation is empty; give at least one turn of the user"),
        ("SECRET", "a conversation must be a list of turns"),
        (HI, "a conversation must be a list of turns"),
        ([HI, "SECRET"], "turn 2 must be an object with role and content"),
        ([{"content": "SECRET"}], "turn 1 must have the role system, user, assistant or tool"),
        ([{"role": "SECRET", "content": "Hi"}], "turn 1 must have the role system, user, assistant or tool"),
        ([{"role": ["user"], "content": "Hi"}], "turn 1 must have the role system, user, assistant or tool"),
        ([HI, {"role": "user"}], "turn 2 must have a content, which is a string"),
        ([{"role": "user", "content": None}], "turn 1 must have a content, which is a string"),
        ([{"role": "user", "content": [{"text": "SECRET"}]}], "turn 1 must have a content, which is a string"),
        (
            [HI, {"role": "assistant", "content": "SECRET"}],
            "the conversation ends with a turn of the assistant; end it",
        ),
        ([{"role": "system", "content": "SECRET"}], "the conversation ends with a turn of the system; end it"),
        ([HI] * 1001, "a conversation of 1,001 turns; at most 1,000 are read"),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_line(conversation: Any, said: str) -> None:
    """The line says which turn is wrong and what it must be, and nothing of what the turns say."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        turns_of(conversation)
    assert "SECRET" not in str(refused.value) and "\n" not in str(refused.value)
