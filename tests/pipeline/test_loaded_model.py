"""An exported folder becomes a model to ask, within bounds, and only if every byte of it is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.templates import PLAIN
from pipeline import manifest
from pipeline.errors import ConfigurationError, DataError, IntegrityError
from pipeline.loaded_model import load


def test_a_language_model_continues_each_prompt(made: Any) -> None:
    """Every prompt gets a continuation, the same for the same seed, whoever else is asked beside it."""
    model = load(made.path("exports/base"))
    together = model.generate(["The cat", "A dog"], max_new_tokens=5, seed=3)
    assert together == model.generate(["The cat", "A dog"], max_new_tokens=5, seed=3)
    assert model.generate(["The cat"], max_new_tokens=5, temperature=0.0) == model.generate(
        ["The cat"], max_new_tokens=5, temperature=0.0, seed=9
    )


def test_an_instructed_model_is_asked_with_its_template(made: Any) -> None:
    """The description carries the template: a prompt with an input and one without make different questions."""
    model = load(made.path("exports/assistant"))
    answers = model.generate(["Name animal 1."], inputs=["A cat."], max_new_tokens=4, temperature=0.0)
    assert (model.template, len(answers), answers[0]) == (PLAIN, 1, answers[0].strip())


def test_a_classifier_gives_every_label_its_share(made: Any) -> None:
    """Probabilities add up to one, and the label is the likeliest; a batch answers as its rows alone do."""
    model = load(made.path("exports/spam"))
    texts = ["win a prize now", "see you soon, and bring the long ladder with you"]
    answers = model.classify(texts)
    assert [list(answer["probabilities"]) for answer in answers] == [["ham", "spam"]] * 2
    for text, answer in zip(texts, answers, strict=True):
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["label"] == max(answer["probabilities"], key=lambda label: answer["probabilities"][label])
        [alone] = model.classify([text])
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_a_text_ends_before_its_stop_string(made: Any) -> None:
    """Of several stop strings the first in the text counts, though it begin and end within tokens."""
    model = load(made.path("exports/base"))
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.5, "seed": 2}
    [free, other] = model.generate(["The cat", "A dog"], **options)
    stop = free[9:13]
    assert model.generate(["The cat", "A dog"], stop=["\0never", free[14:16], stop], **options) == [
        free[: min(free.find(stop), free.find(free[14:16]))],
        other[: min(at for at in (other.find(stop), other.find(free[14:16]), len(other)) if at >= 0)],
    ]


def test_a_model_in_fewer_bits_still_writes(made: Any) -> None:
    """bfloat16 is asked for by name; an unknown name, and a classifier, are refused."""
    model = load(made.path("exports/base"))
    assert len(model.in_fewer_bits("bfloat16").generate(["The cat"], max_new_tokens=4)) == 1
    with pytest.raises(ConfigurationError, match="base: weights is 'int3', but must be one of float32"):
        model.in_fewer_bits("int3")
    with pytest.raises(ConfigurationError, match="spam is a classifier"):
        load(made.path("exports/spam")).in_fewer_bits("bfloat16")


def test_a_long_prompt_keeps_its_end(made: Any) -> None:
    """A prompt longer than the context is asked by its last tokens; one of ten thousand words is no fault."""
    model = load(made.path("exports/base"))
    assert len(model.generate(["word " * 10_000], max_new_tokens=2)) == 1


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "0 texts in one request; give 1 to 256"),
        (["a"] * 257, {}, "257 texts in one request"),
        (["a" * 100_001], {}, "a text of 100,001 characters; at most 100,000 are read"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens is 0; choose 1 to 1024"),
        (["a"], {"max_new_tokens": 1025}, "max_new_tokens is 1025"),
        (["a"], {"temperature": -1.0}, "temperature"),
        (["a"], {"stop": [""]}, "1 stop strings; give at most 16, none of them empty"),
        (["a"], {"top_k": -1}, "top_k"),
    ],
)
def test_more_than_a_request_may_ask_is_refused(
    made: Any, prompts: list[str], options: dict[str, Any], said: str
) -> None:
    """Too many texts, too long a one or an odd option is refused in one line, before any work."""
    with pytest.raises(ConfigurationError, match=said):
        load(made.path("exports/base")).generate(prompts, **options)


def test_each_model_is_asked_for_what_it_does(made: Any) -> None:
    """A classifier does not write and a language model does not classify: the message names the right command."""
    with pytest.raises(ConfigurationError, match="spam is a classifier: use `homegrown classify`"):
        load(made.path("exports/spam")).generate(["a"])
    with pytest.raises(ConfigurationError, match="base is not a classifier: use `homegrown generate`"):
        load(made.path("exports/base")).classify(["a"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "homegrown.json", "tokenizer.tiktoken"])
def test_a_tampered_export_is_not_loaded(made: Any, name: str) -> None:
    """One flipped bit in any file that decides answers, and the model refuses to start."""
    path = made.path("exports/spam") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name}: its bytes are not those of the manifest"):
        load(made.path("exports/spam"))


def test_weights_of_another_shape_are_refused(made: Any) -> None:
    """A configuration that does not fit the weights is an IntegrityError, though the manifest was made to match."""
    folder: Path = made.path("exports/base")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != manifest.MANIFEST}
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps(config | {"vocab_size": 301}).encode()
    with manifest.commit(folder, "export") as draft:
        for name, content in files.items():
            (draft.path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match="exports/base: "):
        load(folder)


def test_what_was_never_exported_is_an_error(tmp_path: Path) -> None:
    """A folder without a manifest is no model."""
    with pytest.raises(DataError, match="run the stage that makes it again"):
        load(tmp_path)
