"""`homegrown evaluate`: one table for every suite, the same after a kill, and another model beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import cli
from model.gpt import GPT, GPTConfig
from pipeline import encodings
from pipeline.exporters.huggingface import write_model
from pipeline.loaded_model import DESCRIPTION_FILE
from pipeline.manifest import commit
from pipeline.tracking import spool

RANKS = {bytes([byte]): byte for byte in range(256)}


def export(folder: Path, seed: int, task: str = "language-model") -> None:
    """A model with random weights whose tokens are bytes, in the form in which models are exported."""
    torch.manual_seed(seed)
    labels = ["ham", "spam"] if task == "classification" else []
    shape: dict[str, Any] = {"vocab_size": 257, "context_length": 64, "n_layers": 1, "n_heads": 2, "d_model": 16}
    model = GPT(GPTConfig(**shape, n_classes=len(labels)))
    with commit(folder, "export") as draft:
        write_model(model, draft.path, end_of_text=256, labels=labels)
        encodings.write_ranks(RANKS, draft.path / encodings.RANKS_FILE)
        description = {"name": folder.name, "task": task, "template": None, "labels": labels}
        (draft.path / DESCRIPTION_FILE).write_text(json.dumps(description))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two exports and a file of questions, whose records wait for MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spool, "start_delivery", lambda: None)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    export(tmp_path / "one", 1)
    export(tmp_path / "two", 2)
    rows = [{"sentence_good": f"Cat {n} sleeps.", "sentence_bad": f"Cat {n} sleep."} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{torn\n")
    return tmp_path


CHOICE = ["--suite", "multiple-choice", "--data", "pairs.jsonl"]


def test_a_table_is_printed_kept_for_mlflow_and_the_same_again(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Value, interval and guessing's baseline; the pace and what was left out on stderr; run again, nothing is read."""
    assert cli.execute(["evaluate", "one", *CHOICE]) == 0
    first = capsys.readouterr()
    head, line = first.out.splitlines()
    assert head.split() == ["figure", "n", "value", "95", "%", "interval", "baseline"]
    assert line.startswith("blimp_pairs acc  40  ") and line.endswith("0.5000 guessing")
    assert "tokens/s" in first.err and "1 of 41 are left out" in first.err
    (record,) = spool.SPOOL.glob("*.jsonl")
    assert '"blimp_pairs acc"' in record.read_text()
    assert cli.execute(["evaluate", "one", *CHOICE]) == 0
    again = capsys.readouterr()
    assert again.out == first.out and "tokens/s" not in again.err


def test_a_torn_record_gives_the_same_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a kill that left half of the answers, the same command gives the same bytes."""
    cli.execute(["evaluate", "one", *CHOICE, "--json"])
    first = capsys.readouterr().out
    (answers,) = (project / "data" / "scratch" / "evaluations").glob("*.jsonl")
    whole = answers.read_bytes()
    answers.write_bytes(whole[: len(whole) // 2])
    assert cli.execute(["evaluate", "one", *CHOICE, "--json"]) == 0
    assert capsys.readouterr().out == first
    assert answers.read_bytes().endswith(whole)


def test_edited_code_asks_again(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found by another version of the suite is not taken for this one's."""
    cli.execute(["evaluate", "one", *CHOICE])
    capsys.readouterr()
    monkeypatch.setattr("pipeline.import_closure.code_of", lambda module: f"what it would be of {module}")
    assert cli.execute(["evaluate", "one", *CHOICE]) == 0
    assert "tokens/s" in capsys.readouterr().err


def test_two_models_are_compared_item_by_item(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The difference has an interval of its own; a model does not differ from itself."""
    assert cli.execute(["evaluate", "one", *CHOICE, "--against", "two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (difference,) = found["differences"]
    assert difference["n"] == 40 and difference["low"] <= difference["difference"] <= difference["high"]
    assert difference["difference"] == pytest.approx(difference["value"] - difference["other"])
    cli.execute(["evaluate", "one", *CHOICE, "--against", "one"])
    assert "+0.0000  +0.0000 – +0.0000  no difference seen" in capsys.readouterr().out


def test_limit_takes_the_first_items(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --limit 7 seven items are asked."""
    assert cli.execute(["evaluate", "one", *CHOICE, "--limit", "7"]) == 0
    assert "blimp_pairs acc  7  " in capsys.readouterr().out


def test_safety_needs_no_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Our own prompts are continued, and the rate has an interval."""
    assert cli.execute(["evaluate", "one", "--suite", "safety", "--limit", "1"]) == 0
    assert "writes personal data  20  " in capsys.readouterr().out


def test_applications_are_the_tables_that_the_stage_wrote(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a model all of them, each figure with its model's name before it."""
    row = {"name": "spam accuracy", "value": 0.9, "n": 10, "low": 0.8, "high": 1.0, "baseline": 0.5}
    rest = {"baseline_name": "always ham", "higher_is_better": True, "data": "d"}
    for name in ("spam", "ham"):
        with commit(Path("data/evaluations") / name, "evaluation") as draft:
            (draft.path / "metrics.json").write_text(json.dumps({"table": [{**row, **rest}]}))
    assert cli.execute(["evaluate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["ham: spam accuracy", "spam: spam accuracy"]
    assert lines[1].endswith("0.9000  0.8000 – 1.0000  0.5000 always ham")
    assert cli.execute(["evaluate", "spam", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"spam": [{**row, **rest}]}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["one", "--suite", "multiple"], 64, "--suite multiple: expected one of applications, multiple-choice"),
        (["--suite", "safety"], 64, "--suite safety needs a MODEL"),
        (["one", "--suite", "multiple-choice"], 64, "--suite multiple-choice needs --data PATH"),
        (["one", "--suite", "multiple-choice", "--data", "nowhere"], 64, "not there"),
        (["one", *CHOICE, "--limit", "0"], 64, "--limit 0: expected 1 or more"),
        (["no/where", *CHOICE], 64, "no/where: not a folder"),
        (["one", "--against", "two"], 64, "--against compares item by item"),
        (["spam", *CHOICE], 64, "spam is a classifier"),
        (["one", "--suite", "memorisation"], 65, "data/tokens is incomplete"),
        (["missing"], 65, "data/evaluations/missing is incomplete"),
        ([], 65, "no model has a table of applications yet"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], code: int, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong and what to do, with the exit code of its kind."""
    if "spam" in arguments:
        export(project / "spam", 3, "classification")
        arguments = ["./spam" if argument == "spam" else argument for argument in arguments]
    assert cli.execute(["evaluate", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error.replace(f"{project}/", "") and len(error.splitlines()) == 1


def test_the_judge_who_is_not_there_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The responses are saved before the judge is asked, and the error says how to start it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (project / "asked.json").write_text(json.dumps([{"instruction": "Say hello.", "output": "hello"}]))
    arguments = ["--suite", "judge", "--data", "asked.json", "--judge-url", "http://127.0.0.1:9"]
    assert cli.execute(["evaluate", "one", *arguments]) == 69
    said, error = capsys.readouterr().err.splitlines()
    assert "start it with: ollama serve, then run again: 0 of 3 answers are kept" in error
    saved = json.loads(Path(said.removeprefix("the responses are in ")).read_text())
    assert saved[0]["instruction"] == "Say hello." and "model_response" in saved[0]
