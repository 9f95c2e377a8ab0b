"""The model as MLflow serves it: code that loads safetensors, never a pickle.

MLflow copies this file beside the weights ("models from code") and runs it when the model is loaded.
"""

from typing import Any

import mlflow
import mlflow.pyfunc
import pandas as pd

from pipeline.loaded_model import LoadedModel, load


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Text in, text out for a language model; text in, label and probabilities out for a classifier."""

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
        options: dict[str, Any] = dict(params or {})
        inputs = model_input["input"].fillna("").tolist() if "input" in model_input else None
        return pd.DataFrame({"text": self.loaded.generate(model_input["prompt"].tolist(), inputs=inputs, **options)})


mlflow.models.set_model(ServedModel())
