"""What MLflow serves answers prompts and conversations, in every form in which MLflow takes rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.conversations import Turn
from tests.pipeline.learned_talks import ABOUT, CURT, KIND, register

pytestmark = pytest.mark.slow  # a model is logged in two seconds or so


@pytest.fixture
def assistant(mlflow_store: Path) -> Any:
    """The champion of that name as MLflow loads it."""
    import mlflow

    register(mlflow_store.parent / "assistant", "instructions")
    return mlflow.pyfunc.load_model("models:/assistant@champion")


def talk(turns: list[Turn]) -> list[dict[str, str]]:
    """A conversation as a caller sends it."""
    return [turn._asdict() for turn in turns]


def test_a_row_is_a_prompt_or_a_conversation(assistant: Any) -> None:
    """In a frame, and over MLflow's own HTTP app, either is answered, alone or beside the other."""
    import pandas as pd
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    told = {"messages": [talk(KIND[:4]), talk(CURT[:3])]}
    assert assistant.predict(pd.DataFrame(told))["text"].tolist() == [KIND[4].content, CURT[3].content]
    assert assistant.predict({"messages": talk(KIND[:2])})["text"].tolist() == [KIND[2].content]
    app = TestClient(scoring_server.init(assistant))

    def texts(body: dict[str, Any]) -> list[str]:
        done = app.post("/invocations", json=body)
        assert done.status_code == 200, done.text
        found = done.json()
        return [row["text"] for row in (found["predictions"] if isinstance(found, dict) else found)]

    asked = [{"prompt": "Hi", "input": ""}, {"prompt": "Name it.", "input": "A cat."}]
    columns = {name: [row[name] for row in asked] for name in ("prompt", "input")}
    split = {"columns": [*columns], "data": [[*row.values()] for row in asked]}
    for rows in ({"dataframe_records": asked}, {"dataframe_split": split}, {"instances": asked}, {"inputs": columns}):
        assert texts(rows) == [CURT[1].content, ABOUT[1].content], rows
    told_rows = [{"messages": messages} for messages in told["messages"]]
    for rows in ({"dataframe_records": told_rows}, {"inputs": told_rows}):
        assert texts(rows) == [KIND[4].content, CURT[3].content], rows
    mixed = [told_rows[0], asked[1], told_rows[1], {"prompt": "Hi"}]
    assert texts({"dataframe_records": mixed}) == [KIND[4].content, "Cat", CURT[3].content, "Hm."]
    assert texts({"messages": talk(KIND[:4]), "max_new_tokens": 3}) == ["A f"]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"promt": "Hi"}], "there is neither a column prompt nor a column messages"),
        ([{"prompt": "Hi"}, {"prompt": "Hi", "messages": talk(CURT[:1])}], "row 2 must have either a prompt or mess"),
        ([{"messages": talk(CURT[:1])}, {"prompt": None}], "row 2 must have either a prompt or messages"),
        ([{"messages": talk(CURT[:1])}, {"messages": []}], "conversation 2: the conversation is empty"),
        ([{"messages": "SECRET"}], "a conversation must be a list of turns"),
        ([{"messages": [{"role": "user"}]}], "turn 1 must have a content"),
    ],
)
def test_a_row_that_is_neither_is_refused(records: list[dict[str, Any]], said: str, assistant: Any) -> None:
    """The caller gets 400 and, at the end of the trace that MLflow sends, the line that says what is wrong."""
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    refused = TestClient(scoring_server.init(assistant)).post("/invocations", json={"dataframe_records": records})
    assert refused.status_code == 400
    line = refused.json()["stack_trace"].splitlines()[-1]
    assert line.startswith(f"pipeline.errors.ConfigurationError: {said}") and "SECRET" not in line


def test_who_learned_turns_takes_messages(mlflow_store: Path) -> None:
    """A model that learned preferences has a template and takes them; of a base a prompt is required as before."""
    import mlflow

    found = {}
    for name, task in (("base", "language-model"), ("preferred", "preferences")):
        register(mlflow_store.parent / name, task)
        served = mlflow.pyfunc.load_model(f"models:/{name}@champion")
        schema = served.metadata.get_input_schema()
        found[name] = (schema.required_input_names(), schema.optional_input_names())
    assert found == {"base": (["prompt"], []), "preferred": ([], ["prompt", "messages"])}
    assert served.predict({"messages": talk(KIND[:2])})["text"].tolist() == [KIND[2].content]
