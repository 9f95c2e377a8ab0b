"""An export is one folder with everything that using the model takes, and nothing that changes from day to day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.templates import PLAIN
from pipeline import manifest
from pipeline.errors import GateError, IntegrityError

FILES = [
    "README.md",
    "config.json",
    "homegrown.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.pattern",
    "tokenizer.tiktoken",
    "tokenizer_config.json",
]


@pytest.mark.parametrize(
    ("name", "task", "template", "labels"),
    [
        ("base", "language-model", None, []),
        ("assistant", "instructions", PLAIN.to_dict(), []),
        ("spam", "classification", None, ["ham", "spam"]),
    ],
)
def test_the_folder_is_complete(
    made: Any, name: str, task: str, template: dict[str, str] | None, labels: list[str]
) -> None:
    """Weights, configuration, both forms of the vocabulary, the card, and a description of how to ask the model."""
    folder = made.path(f"exports/{name}")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "homegrown.json").read_text()) == {
        "name": name,
        "task": task,
        "template": template,
        "labels": labels,
        "end_of_text": 299,
    }
    metrics = json.loads((made.path(f"evaluations/{name}") / "metrics.json").read_text())
    assert made.manifest(f"exports/{name}").facts == {"name": name, "task": task, "metrics": metrics}


@pytest.mark.parametrize("name", ["base", "spam"])
def test_exporting_twice_gives_equal_bytes(made: Any, name: str) -> None:
    """The same model, vocabulary and figures give the same digest."""
    before = made.manifest(f"exports/{name}").digest
    made.run("export", name)
    assert made.manifest(f"exports/{name}").digest == before


def test_the_card_names_figures_and_origins(made: Any) -> None:
    """The model's card gives every metric, and its documents, tokens and checkpoint by digest."""
    card = (made.path("exports/spam") / "README.md").read_text()
    metrics = json.loads((made.path("evaluations/spam") / "metrics.json").read_text())
    assert card.startswith("# spam\n")
    assert "It sorts a message into one of: ham, spam." in card
    for key, value in metrics.items():
        if isinstance(value, float):
            assert f"| {key} | {value:.4g} |" in card
    for place in ("documents/clean", "tokens", "checkpoints/spam"):
        assert made.manifest(place).digest[:16] in card


def test_no_test_example_is_in_an_export(made: Any) -> None:
    """A test message stands in the samples of the evaluation, and not in the card, nor do the answers' prompts."""
    for name in ("spam", "assistant"):
        samples = json.loads((made.path("evaluations") / name / "samples.json").read_text())
        held_out = [sample["prompt"] for sample in samples if "expected" in sample]
        card = (made.path("exports") / name / "README.md").read_text()
        assert held_out and not any(prompt in card for prompt in held_out)


def test_no_path_or_time_is_in_an_export(made: Any) -> None:
    """Nothing that DVC hashes says where it was made."""
    for path in made.path("exports").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(made.root) not in path.read_text(encoding="utf-8")


def test_a_model_whose_figure_is_no_number_is_refused(made: Any) -> None:
    """An evaluation that came out as NaN does not pass the gate, and the earlier export stays."""
    before = made.manifest("exports/base")
    folder = made.path("evaluations/base")
    metrics = json.loads((folder / "metrics.json").read_text()) | {"bits_per_byte": float("nan")}
    samples = (folder / "samples.json").read_text()
    with manifest.commit(folder, "evaluation") as draft:
        (draft.path / "metrics.json").write_text(json.dumps(metrics))
        (draft.path / "samples.json").write_text(samples)
    with pytest.raises(GateError, match="export: base: bits_per_byte is nan"):
        made.run("export", "base")
    assert made.manifest("exports/base") == before


@pytest.mark.parametrize(
    "place", ["checkpoints/base/model.safetensors", "tokens/tokenizer.tiktoken", "evaluations/base/metrics.json"]
)
def test_altered_parts_are_not_exported(made: Any, place: str) -> None:
    """A flipped bit in the weights, the vocabulary or the figures is an IntegrityError that names the file."""
    path = made.path(place)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{Path(place).name}: its bytes are not those of the manifest"):
        made.run("export", "base")
