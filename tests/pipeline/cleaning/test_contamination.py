"""Thirteen words in a row of an evaluation's text are found, and fewer are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.contamination import EvaluationTexts
from pipeline.cleaning.words import Batch

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def found(evaluation: list[str], *documents: str) -> dict[int, str]:
    texts = EvaluationTexts()
    texts.add("the test messages", evaluation)
    return texts.reasons_to_drop(Batch(documents))


def test_thirteen_words_in_a_row_are_too_many() -> None:
    """Case and punctuation do not hide them; twelve words do not count; the reason names the set, not the text."""
    thirteen = "See: Two, three -- FOUR\nfive six seven eight nine ten eleven twelve thirteen FOURTEEN!"
    twelve = "two three four five six seven eight nine ten eleven twelve thirteen"
    assert found([LONG], twelve, thirteen) == {1: "contaminated: has 13 words in a row of the test messages"}


def test_a_shorter_text_is_looked_for_whole() -> None:
    """Of eight to twelve words all must be there; of seven nothing is looked for, and that is counted."""
    eight, seven = "one two three four five six seven eight", "red two three four five six seven"
    assert found([eight], f"so {eight} then") == {0: "contaminated: has 8 words in a row of the test messages"}
    assert found([eight], "one two three four five six seven") == {}
    assert found([seven], seven) == {}
    texts = EvaluationTexts()
    texts.add("set", [eight, seven])
    assert (texts.looked_for, texts.too_short) == ({"set": 1}, {"set": 1})


def test_words_of_two_documents_are_not_in_a_row() -> None:
    """The end of one document and the beginning of the next are no text."""
    assert found([LONG], "one two three four five six", "seven eight nine ten eleven twelve thirteen") == {}


def test_nothing_to_look_for_finds_nothing() -> None:
    """No evaluation, no contamination."""
    assert EvaluationTexts().reasons_to_drop(Batch([LONG])) == {}


words = st.lists(st.sampled_from("ab"), min_size=0, max_size=40)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_it_is_the_plain_definition(evaluation: list[str], documents: list[list[str]]) -> None:
    """A document is contaminated exactly if a run of the evaluation's words, 13 or all of 8 to 12, stands in it."""
    n = min(13, len(evaluation))
    runs = {tuple(evaluation[i : i + n]) for i in range(len(evaluation) - n + 1)} if n >= 8 else set()
    expected = {
        place
        for place, document in enumerate(documents)
        if runs & {tuple(document[i : i + n]) for i in range(len(document) - n + 1)}
    }
    assert set(found([" ".join(evaluation)], *map(" ".join, documents))) == expected
