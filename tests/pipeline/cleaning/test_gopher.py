"""Gopher's quality rules give, on arrays, what their plain definition gives, text by text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.gopher import RULES, STOP_WORDS
from pipeline.cleaning.words import Batch

PIECES = ["the", "of", "cat", "##", "...", "…", "•", "-", "42", "x…", "\n", "\n\n", "日本"]
texts = st.lists(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join), min_size=1, max_size=4)


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def real(text: str) -> list[str]:
    return [word for word in text.split() if any(map(str.isalnum, word))]


# Each rule as one would explain it.
PLAIN: dict[str, Callable[[str], float]] = {
    "gopher-words": lambda t: len(real(t)),
    "gopher-word-length": lambda t: share(sum(map(len, real(t))), len(real(t))),
    "gopher-hashes": lambda t: share(t.count("#"), len(t.split())),
    "gopher-ellipses": lambda t: share(t.count("...") + t.count("…"), len(t.split())),
    "gopher-bullet-lines": lambda t: share(sum(x.lstrip()[0] in "•-" for x in lines(t)), len(lines(t))),
    "gopher-ellipsis-lines": lambda t: share(sum(x.rstrip().endswith(("...", "…")) for x in lines(t)), len(lines(t))),
    "gopher-alphabetic-words": lambda t: share(sum(any(map(str.isalpha, w)) for w in t.split()), len(t.split())),
    "gopher-stop-words": lambda t: len(set(t.split()) & set(STOP_WORDS)),
}


@given(texts)
def test_measures_are_those_of_the_plain_definition(texts: list[str]) -> None:
    """Every rule, every text, to the last digit."""
    for rule in RULES:
        assert rule.measure(Batch(texts)).tolist() == pytest.approx([PLAIN[rule.name](text) for text in texts])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gopher-words", "the cat and the dog"),
        ("gopher-word-length", "a b c d e f the of"),
        ("gopher-hashes", "# one # two"),
        ("gopher-ellipses", "well ... so ... it goes"),
        ("gopher-bullet-lines", "- one\n• two\n- three"),
        ("gopher-ellipsis-lines", "so it goes...\nand on\n and on…"),
        ("gopher-alphabetic-words", "1 2 3 four 5"),
        ("gopher-stop-words", "Lorem ipsum dolor sit amet of"),
    ],
)
def test_each_rule_drops_its_example_with_its_name(name: str, text: str) -> None:
    """The reason begins with the rule's name, and holds the number and the limit, never the text."""
    [rule] = [rule for rule in RULES if rule.name == name]
    [reason] = rule.reasons(Batch([text])).values()
    assert reason.startswith(f"{name}: ")
    assert "wanted at" in reason


def test_a_page_of_prose_passes() -> None:
    """Fifty words of English pass every rule."""
    text = " ".join(["The cat sat with the dog and looked at all of the birds that have flown."] * 5)
    assert [rule.name for rule in RULES if rule.reasons(Batch([text]))] == []
