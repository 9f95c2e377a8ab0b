"""What was found for an item stays found: after a kill, a torn line, and a second try."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DataError, TryAgainError
from pipeline.evaluations.answers import open_answers
from pipeline.evaluations.comparison import compare
from pipeline.evaluations.measures import Measure


def test_answers_are_there_again(tmp_path: Path) -> None:
    """What one process added, the next one reads."""
    with open_answers("key", tmp_path) as answers:
        answers.add({"one": [1.5, 2.0], "two": "é"})
    with open_answers("key", tmp_path) as answers:
        assert len(answers) == 2 and answers["one"] == [1.5, 2.0] and answers["two"] == "é"


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_torn_line_is_dropped(cut: int, tmp_path: Path) -> None:
    """However much of the last line a kill has left, the lines before it stay and the item is asked again."""
    with open_answers("key", tmp_path) as answers:
        answers.add({"one": 1})
        answers.add({"two": [2, 3]})
    path = tmp_path / "key.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with open_answers("key", tmp_path) as answers:
        assert "one" in answers and "two" not in answers
        answers.add({"two": 4})
    with open_answers("key", tmp_path) as answers:
        assert answers["two"] == 4


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """The same evaluation runs in one process at a time."""
    with (
        open_answers("key", tmp_path),
        pytest.raises(TryAgainError, match="running already"),
        open_answers("key", tmp_path),
    ):
        pass


def test_a_comparison_is_paired() -> None:
    """A model that is right on one more item in three on the very same items is better; other items are refused."""
    ids = tuple(str(number) for number in range(90))
    ours = Measure("set acc", ids, tuple(float(n % 3 > 0) for n in range(90)), "digest")
    theirs = Measure("set acc", ids, tuple(float(n % 3 > 1) for n in range(90)), "digest")
    (found,) = compare([ours], [theirs])
    assert found.difference == pytest.approx(1 / 3) and found.verdict == "better" and 0 < found.low < found.high
    assert compare([ours], [ours])[0].verdict == "no difference seen"
    assert compare([theirs], [ours])[0].verdict == "worse"
    with pytest.raises(DataError, match="not asked the same"):
        compare([ours], [Measure("set acc", ids[1:], theirs.scores[1:], "digest")])
    with pytest.raises(DataError, match="not asked the same"):
        compare([ours], [Measure("set acc", ids, theirs.scores, "other")])
