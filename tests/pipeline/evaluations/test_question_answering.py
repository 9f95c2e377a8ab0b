"""An answer is compared by its words, and a citation is supported if the answer stands in it."""

from __future__ import annotations

import pytest

from pipeline.evaluations import question_answering
from pipeline.evaluations.answering import Asking
from pipeline.evaluations.question_answering import evaluate, token_f1
from pipeline.evaluations.retrieval import bm25
from pipeline.instruction_rows import InstructionRow

PASSAGES = ["The owl lives in the barn. It is old.", "The fox is red. It likes the meadow."]
ROWS = [
    InstructionRow("q", "questions", "test", "Where does the owl live?", PASSAGES[0], "the barn"),
    InstructionRow("q", "questions", "test", "What does the fox like?", PASSAGES[1], "the meadow"),
]


@pytest.mark.parametrize(
    ("given", "expected", "f1"),
    [
        ("The Barn!", "barn", 1.0),
        ("old barn", "barn", 2 / 3),
        ("meadow", "barn", 0.0),
        ("", "", 1.0),
        ("", "barn", 0.0),
    ],
)
def test_words_count_without_case_articles_and_marks(given: str, expected: str, f1: float) -> None:
    """F1 weighs the words that both have against all that either has."""
    assert token_f1(given, expected) == pytest.approx(f1)


def test_an_answer_from_nowhere_has_no_support(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two answers one stands in the passage that is cited; the other is made up."""
    said = {"Where does the owl live?": "the barn", "What does the fox like?": "the moon"}
    monkeypatch.setattr(question_answering, "answer", lambda _, rows: [said[row.instruction] for row in rows])
    asking = Asking(None, None, None)  # type: ignore[arg-type]
    found = evaluate(asking, ROWS, PASSAGES, retriever=bm25, read=1)
    assert found.metrics["supported_citations"] == 0.5
    assert found.metrics["answer_exact_match"] == 0.5
    assert found.metrics["recall_at_1"] == 1.0
    assert [sample["response"] for sample in found.samples] == ["the barn [1]", "the moon [2]"]


def test_the_surest_of_several_passages_is_cited(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two passages read, the answer with the fewest nats per token counts, whichever passage it came from."""
    monkeypatch.setattr(question_answering, "answer", lambda _, rows: [row.input.split()[1] for row in rows])
    monkeypatch.setattr(
        question_answering, "mean_nats", lambda _, rows, __: [0.1 if "owl" in row.input else 0.9 for row in rows]
    )
    asking = Asking(None, None, None)  # type: ignore[arg-type]
    found = evaluate(asking, ROWS, PASSAGES, retriever=bm25, read=2)
    assert [sample["response"] for sample in found.samples] == ["owl [1]", "owl [1]"]
    assert found.metrics["supported_citations"] == 1.0
