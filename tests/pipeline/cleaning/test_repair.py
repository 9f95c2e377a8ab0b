"""What repair puts right, and what it leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.repair import repair


@pytest.mark.parametrize("text", ["café", "naïve – “quoted”", "日本語", "Größe"])
def test_wrong_decoding_is_undone(text: str) -> None:
    """UTF-8 read as Windows-1252 becomes what it was; what was right stays."""
    assert repair(text) == text
    assert repair("cafÃ©") == "café"


@pytest.mark.parametrize("text", ["&lt;b&gt; “x” ﬁ ＡＢＣ é", "a\r\nb\x1b[0m"])
def test_taste_is_left_alone(text: str) -> None:
    """Entities, quotation marks, ligatures and full-width letters are the author's."""
    assert repair(text) == text


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_never_touched(text: str) -> None:
    """There is nothing to repair in it."""
    assert repair(text) == text
