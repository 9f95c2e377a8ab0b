"""The language of a text, by a model that needs no network; the tests skip where it is not installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from pipeline.cleaning.languages import _model, language_of, reason_to_drop
from pipeline.errors import DependencyError

needs_model = pytest.mark.skipif(importlib.util.find_spec("fasttext") is None, reason="homegrown[languages] is missing")


@needs_model
@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat sits on the mat and looks at the birds.", "en"),
        ("Die Katze sitzt auf der Matte\nund schaut den Vögeln zu.", "de"),
        ("Le chat est assis sur le tapis et regarde les oiseaux.", "fr"),
        ("猫がマットの上に座って鳥を見ています。", "ja"),
    ],
)
def test_a_sentence_is_enough(text: str, language: str) -> None:
    """One sentence, line ends and all."""
    assert language_of(text)[0] == language


@needs_model
def test_a_text_is_dropped_for_its_language_or_for_doubt() -> None:
    """The reason says which language it is, how surely, and what was wanted; it holds none of the text."""
    german = "Die Katze sitzt auf der Matte und schaut den Vögeln zu."
    assert reason_to_drop(german, ("en", "de"), 0.5) is None
    assert (reason_to_drop(german, ("en", "fr"), 0.5) or "").endswith(", wanted en or fr")
    assert (reason_to_drop("xx yy zz", ("en", "de", "fr", language_of("xx yy zz")[0]), 1.0) or "").startswith(
        "language: "
    )


def test_a_missing_model_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, one line says how to install it."""
    monkeypatch.setitem(sys.modules, "fasttext", None)
    _model.cache_clear()
    with pytest.raises(DependencyError, match=r"pip install 'homegrown\[languages\]'"):
        language_of("text")
    _model.cache_clear()
