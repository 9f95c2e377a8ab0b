"""Who is 80 % sure should be right 80 % of the time."""

from __future__ import annotations

import pytest

from pipeline.evaluations.calibration import Bin, expected_error, reliability


def test_answers_are_binned_by_confidence() -> None:
    """Bins without answers are left out, and full confidence belongs to the last bin."""
    bins = reliability([0.55, 0.52, 0.95, 1.0], [True, False, True, True])
    assert [(each.accuracy, each.n) for each in bins] == [(0.5, 2), (1.0, 2)]
    assert [each.confidence for each in bins] == pytest.approx([0.535, 0.975])


def test_the_error_is_the_gap_weighted_by_answers() -> None:
    """Three answers a tenth too sure and one that is just right err by 0.075."""
    assert expected_error([Bin(0.9, 0.8, 3), Bin(0.5, 0.5, 1)]) == pytest.approx(0.075)
    assert expected_error(reliability([0.75] * 4, [1, 1, 1, 0])) == 0.0
