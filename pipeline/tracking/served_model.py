"""The model as MLflow serves it: code that loads safetensors, never a pickle.

MLflow copies this file beside the weights ("models from code") and runs it when the model is loaded.
"""

from collections.abc import Mapping
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd

from pipeline.errors import ConfigurationError
from pipeline.loaded_model import LoadedModel, load


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Text or turns in, text out for a language model; text in, label and probabilities out for a classifier."""

    loaded: LoadedModel

    # No type hints on load_context and predict: with them MLflow drops the signature and its params without a word.
    def load_context(self, context):  # type: ignore[no-untyped-def]
        """Load the exported folder, which checks every byte of it."""
        from pathlib import Path

        self.loaded = load(Path(context.artifacts["export"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One row of answer for each row of input; `params` may set how text is written."""
        if self.loaded.task == "classification":
            return pd.DataFrame(self.loaded.classify(model_input["text"].tolist()))
        return pd.DataFrame({"text": _write(self.loaded, model_input, dict(params or {}))})


def _write(loaded: LoadedModel, rows: pd.DataFrame, how: dict[str, Any]) -> list[str]:
    """The text for each row: what follows its prompt, or what the assistant says next after its messages."""
    prompts, inputs, talks = (_cells(rows, name) for name in ("prompt", "input", "messages"))
    if "prompt" not in rows and talks and all(isinstance(turn, Mapping) for turn in talks):
        # Of {"messages": [...]} alone, the body that chat interfaces send, MLflow makes a row of every turn.
        prompts, inputs, talks = [None], [None], [talks]
    for number, (prompt, talk) in enumerate(zip(prompts, talks, strict=True), 1):
        if (prompt is None) == (talk is None):
            raise ConfigurationError(f"row {number} must have either a prompt or messages")
    if not prompts and "prompt" not in rows:
        raise ConfigurationError("there is neither a column prompt nor a column messages; give one of them")
    texts: dict[int, str] = {}
    asked = [row for row, prompt in enumerate(prompts) if prompt is not None]
    if asked or not prompts:
        given = [inputs[row] or "" for row in asked]
        texts |= zip(asked, loaded.generate([prompts[row] for row in asked], inputs=given, **how), strict=True)
    if chatted := [row for row, talk in enumerate(talks) if talk is not None]:
        texts |= zip(chatted, loaded.chat([talks[row] for row in chatted], **how), strict=True)
    return [texts[row] for row in sorted(texts)]


def _cells(rows: pd.DataFrame, name: str) -> list[Any]:
    """A column's values; None where a row has none, and everywhere if there is no such column."""
    if name not in rows:
        return [None] * len(rows)
    cells = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in rows[name]]
    return [None if pd.api.types.is_scalar(cell) and pd.isna(cell) else cell for cell in cells]


mlflow.models.set_model(ServedModel())
