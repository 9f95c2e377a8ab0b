"""What counts as empty."""

from __future__ import annotations

import pytest

from pipeline.cleaning.empty import reason_to_drop


@pytest.mark.parametrize("text", ["", " ", "\n\t\n", "\u2028\u00a0\u3000"])
def test_white_space_alone_is_empty(text: str) -> None:
    """Nothing to read is nothing to learn, whichever kind of white space it is made of."""
    assert reason_to_drop(text) == "empty"


@pytest.mark.parametrize("text", ["a", " . ", "0", "\u200b"])
def test_any_other_character_is_something(text: str) -> None:
    """One visible character, or an invisible one that is no white space, is enough to stay."""
    assert reason_to_drop(text) is None
