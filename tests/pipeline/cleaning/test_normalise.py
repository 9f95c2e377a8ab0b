"""What normalising promises: one spelling for equal texts, and nothing else lost."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.normalise import normalise

# Controls, line ends, accents, white space: where the steps could disturb each other.
awkward = st.text(st.sampled_from("a e\n\r\t\x00\x0b\x0c\x7f\u0301\u0308\u1100\u1161\u11a8\u2028\u2000\ufeffÅ\u212b"))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("nul\x00 bell\x07 form\x0cfeed del\x7f", "nul bell formfeed del"),
        ("cafe\u0301 \u212bngstro\u0308m", "café Ångström"),
        ("tab\tkept\t \n  indent kept", "tab\tkept\n  indent kept"),
        ("\n \nfirst\n\n\nlast\n\n", "first\n\n\nlast"),
        ("one\u2028two\u2029three\u0085four", "one\u2028two\u2029three\u0085four"),
        (" \t\r\n", ""),
        ("\r\x00\n", ""),
        ("a\r\x00\nb", "a\nb"),
        ("e\x00\u0301", "é"),
        ("日本語 👩‍👩‍👧 <|endoftext|>", "日本語 👩‍👩‍👧 <|endoftext|>"),
    ],
)
def test_the_policy_by_example(text: str, normal: str) -> None:
    """Line ends, controls, accents, trailing space and blank edges, one by one."""
    assert normalise(text) == normal


@given(st.text() | awkward)
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    """What was normalised once is in its final spelling."""
    assert normalise(normalise(text)) == normalise(text)


@given(st.text() | awkward)
def test_only_the_named_characters_go(text: str) -> None:
    """Letters, marks and symbols all survive, up to their composed form."""

    def visible(text: str) -> str:
        kept = (c for c in text if unicodedata.category(c) != "Cc" and c != " ")
        return unicodedata.normalize("NFC", "".join(kept))

    assert visible(normalise(text)) == visible(text)


@given(st.text() | awkward)
def test_a_normalised_text_has_one_kind_of_line_end(text: str) -> None:
    """No CR, no NUL, no space before a line end."""
    normal = normalise(text)
    assert not set(normal) & set("\r\x00\x0b\x0c\x7f")
    assert all(line == line.rstrip(" \t") for line in normal.split("\n"))
