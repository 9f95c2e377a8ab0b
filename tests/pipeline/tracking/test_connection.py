"""Whoever connects to MLflow, however often, hears of it what matters and nothing else."""

from __future__ import annotations

import warnings

import pytest

from pipeline.tracking.connection import connect

pytestmark = pytest.mark.slow


def test_advice_is_left_out_however_often_one_connects(mlflow_store: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivery connects once a second: warnings pass through one filter, not through one for each time."""
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    connect()
    once = warnings.showwarning
    connect()
    assert warnings.showwarning is once
    for message in ("add type hints to predict", "the disk is nearly full"):
        warnings.showwarning(message, UserWarning, "a.py", 1)
    assert shown == ["the disk is nearly full"]
