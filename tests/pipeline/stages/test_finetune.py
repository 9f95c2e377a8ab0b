"""Fine-tuning makes a model for its task from the base, and is as repeatable as pretraining."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import load_model, save_model
from model.templates import PLAIN
from pipeline import lessons, manifest
from pipeline.documents import Instruction, Message, Preference, read_records, write_records
from pipeline.encodings import load_encoding
from pipeline.errors import ConfigurationError, DataError, IntegrityError, TryAgainError
from pipeline.published import digest_of_model

Sha256 = Callable[[Path], dict[str, str]]
STEPS = {"assistant": 4, "spam": 6}


def anew(project: Any, name: str) -> None:
    """Forget that this model was ever made."""
    shutil.rmtree(project.path(f"checkpoints/{name}"))
    shutil.rmtree(project.path(f"scratch/finetune@{name}"))


def interrupt(project: Any, step: int) -> None:
    """Let the next run be met by Ctrl-C after a step."""
    project.report = type(project.report)()
    project.report.on_progress = lambda done: os.kill(os.getpid(), signal.SIGINT) if done == step else None


def with_examples(
    project: Any,
    messages: list[Message] | None = None,
    instructions: list[Instruction] | None = None,
    preferences: list[Preference] | None = None,
) -> None:
    """Commit other clean examples in place of those given."""
    folder = project.path("examples/clean")
    messages = messages or list(read_records(folder / "messages.parquet", Message))
    instructions = instructions or list(read_records(folder / "instructions.parquet", Instruction))
    with manifest.commit(folder, "examples") as draft:
        write_records(messages, Message, draft.path / "messages.parquet")
        write_records(instructions, Instruction, draft.path / "instructions.parquet")
        if preferences:
            write_records(preferences, Preference, draft.path / "preferences.parquet")


@pytest.mark.parametrize("name", ["assistant", "spam"])
def test_the_result_says_what_it_is_for(made: Any, name: str) -> None:
    """The manifest names the task, its classes and its parents, and the curves have a row per step and per epoch."""
    found = made.manifest(f"checkpoints/{name}")
    model = load_model(made.path(f"checkpoints/{name}"))
    encode = load_encoding(made.path("tokens/tokenizer.tiktoken")).encode_ordinary
    learned = sum(len(encode(animal)) + 1 for animal in ("cat", "dog", "hen", "cow", "fox", "owl"))
    forgetting = found.facts.pop("forgetting")
    assert forgetting.keys() == {"bits_per_byte_before", "bits_per_byte_after"}
    assert forgetting["bits_per_byte_after"] != forgetting["bits_per_byte_before"]
    assert found.facts == {
        "task": {"assistant": "instructions", "spam": "classification"}[name],
        "template": {"assistant": "plain", "spam": None}[name],
        "template_parts": {"assistant": PLAIN.to_dict(), "spam": None}[name],
        "datasets": {"assistant": ["instructions"], "spam": ["spam"]}[name],
        "labels": {"assistant": [], "spam": ["ham", "spam"]}[name],
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_examples": {"assistant": 6, "spam": 12}[name],
        "too_long": 0,
        "truncated": 0,
        "without_response": 0,
        **({"supervised_tokens": learned} if name == "assistant" else {}),
        "vocabulary_fingerprint": made.manifest("tokens").facts["vocabulary_fingerprint"],
    }
    assert found.inputs == {
        "start": made.manifest("checkpoints/base").digest,
        "tokens": made.manifest("tokens").digest,
        "examples": made.manifest("examples/clean").digest,
    }
    rows = {}
    for curve in ("training", "validation"):
        with (made.path(f"checkpoints/{name}") / f"{curve}.csv").open() as file:
            rows[curve] = [int(row["step"]) for row in csv.DictReader(file)]
    steps = STEPS[name]
    assert rows == {"training": list(range(1, steps + 1)), "validation": [steps // 2, steps]}


@pytest.mark.parametrize("name", ["assistant", "spam"])
def test_finetuning_twice_gives_equal_bytes(made: Any, sha256_of: Sha256, name: str) -> None:
    """The same base, examples and params give the same files."""
    before = sha256_of(made.path(f"checkpoints/{name}"))
    anew(made, name)
    made.run("finetune", name)
    assert sha256_of(made.path(f"checkpoints/{name}")) == before


@pytest.mark.parametrize(("name", "step"), [("assistant", 1), ("spam", 3), ("spam", 5)])
def test_stopping_and_going_on_equals_never_having_stopped(made: Any, sha256_of: Sha256, name: str, step: int) -> None:
    """After Ctrl-C at any step, the same command ends with the bytes of an uninterrupted run."""
    before = sha256_of(made.path(f"checkpoints/{name}"))
    anew(made, name)
    interrupt(made, step)
    with pytest.raises(TryAgainError, match=f"finetune@{name}: stopped after step {step} of {STEPS[name]}"):
        made.run("finetune", name)
    assert f"resuming after step {step} of {STEPS[name]}" in made.run("finetune", name).notes
    assert sha256_of(made.path(f"checkpoints/{name}")) == before


@pytest.mark.parametrize("trainable", ["head", "last_block", "all"])
def test_only_the_chosen_weights_move(made: Any, trainable: str) -> None:
    """With `head` the trunk keeps every bit of the base; with the others it learns too."""
    made.run("finetune", "spam", trainable=trainable)
    base = load_model(made.path("checkpoints/base")).state_dict()
    tuned = load_model(made.path("checkpoints/spam")).state_dict()
    trunk = {name for name in base.keys() & tuned.keys() if not name.startswith("head")}
    moved = {name for name in trunk if not torch.equal(base[name], tuned[name])}
    embedding_moved = any("embedding" in name for name in moved)
    assert (bool(moved), embedding_moved) == (trainable != "head", trainable == "all")


def test_examples_that_do_not_fit_are_counted_and_left_out(made: Any) -> None:
    """An instruction longer than the context is not cut in two: it is left out, counted and said."""
    rows = list(read_records(made.path("examples/clean/instructions.parquet"), Instruction))
    long = Instruction.of(dataset="d", split="train", instruction="Repeat.", input="word " * 300, response="word")
    with_examples(made, instructions=[*rows, long])
    report = made.run("finetune", "assistant")
    facts = made.manifest("checkpoints/assistant").facts
    assert (facts["training_examples"], facts["too_long"]) == (6, 1)
    assert any("1 did not fit into the context and were left out" in note for note in report.notes)


def test_no_example_that_fits_is_an_error(made: Any) -> None:
    """If every instruction is too long, the error says how many and what to change."""
    long = [
        Instruction.of(dataset="d", split=split, instruction="Repeat.", input="word " * 300, response="word")
        for split in ("train", "validation", "test")
    ]
    with_examples(made, instructions=long)
    with pytest.raises(
        DataError,
        match=r"no instructions example is left in the split train: of all splits 3 were too long for the context",
    ):
        made.run("finetune", "assistant")


def test_one_class_is_no_classification(made: Any) -> None:
    """Messages of one label only make no classifier."""
    rows = list(read_records(made.path("examples/clean/messages.parquet"), Message))
    with_examples(made, messages=[row for row in rows if row.label == "ham"])
    with pytest.raises(DataError, match=r"all messages have the label \['ham'\]; a classifier needs two classes"):
        made.run("finetune", "spam")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("rows_at_once", -1),
        ("patience", -1),
        ("warmup_fraction", 1.5),
        ("task", "chat"),
        ("learning_rate", -1.0),
        ("weight_decay", -1.0),
    ],
)
def test_a_wrong_setting_is_refused(made: Any, key: str, value: object) -> None:
    """A value out of its range is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match=key):
        made.run("finetune", "spam", **{key: value})


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("spam", {"lora_rank": 4, "trainable": "head"}, "with a lora_rank only adapters move; set it to all"),
        ("spam", {"lora_rank": 4, "lora_targets": ["querry"]}, "lora_targets names 'querry'"),
        ("assistant", {"lora_rank": 4, "lora_targets": ["head"]}, "adapted in classifiers only"),
        ("spam", {"from_scratch": True, "trainable": "head"}, "from_scratch needs all weights to learn"),
        ("assistant", {"balance": True}, "balance and class_weights are for classification"),
        ("spam", {"packing": "packed"}, "packing is for instructions, but task is classification"),
        ("assistant", {"template": {"name": "own", "user": "{content}", "assistant": "A:"}}, "slot for the response"),
        ("assistant", {"template": "alpacca"}, "template"),
        ("assistant", {"datasets": ["letters"]}, "no instructions example is of the data set 'letters'"),
        ("assistant", {"task": "language-model", "datasets": ["letters"]}, "no document is of the source 'letters'"),
    ],
)
def test_what_does_not_go_together_is_refused(made: Any, name: str, changes: dict[str, Any], said: str) -> None:
    """A setting that another makes senseless, and a name that is not known, is refused in one line."""
    with pytest.raises(ConfigurationError, match=said):
        made.run("finetune", name, **changes)


def test_adapters_are_merged_into_the_weights(made: Any, sha256_of: Sha256) -> None:
    """With a lora_rank the checkpoint is a plain model: only matrices with adapters moved, stopped half-way or not."""
    made.run("finetune", "assistant", lora_rank=2, lora_targets=["query", "down"], optimizer="adamw")
    base = load_model(made.path("checkpoints/base")).state_dict()
    tuned = load_model(made.path("checkpoints/assistant")).state_dict()
    assert base.keys() == tuned.keys()
    moved = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert moved == {"blocks.0.attention.query.weight", "blocks.0.mlp.down.weight"}
    before = sha256_of(made.path("checkpoints/assistant"))
    anew(made, "assistant")
    interrupt(made, 2)
    changes = {"lora_rank": 2, "lora_targets": ["query", "down"], "optimizer": "adamw"}
    with pytest.raises(TryAgainError):
        made.run("finetune", "assistant", **changes)
    made.run("finetune", "assistant", **changes)
    assert sha256_of(made.path("checkpoints/assistant")) == before


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_patience_keeps_the_best_epoch(
    made: Any, sha256_of: Sha256, monkeypatch: pytest.MonkeyPatch, lora_rank: int
) -> None:
    """Where no epoch after the second is better, training ends, and the model is that of two epochs alone.

    So it is when stopped after what was best, and going on.
    """
    losses = iter([3.0, 2.0, 2.5, 2.5])
    classes = lessons.classes

    def watched(*arguments: Any, **options: Any) -> Any:
        lesson = classes(*arguments, **options)
        # The epochs of the third run go on where those of the second were stopped.
        return replace(lesson, watch=lambda model, step: {"validation_loss": next(losses)})

    settings = {"warmup_fraction": 0.0, "lora_rank": lora_rank, "optimizer": "adamw", "epochs": 9}
    monkeypatch.setattr(lessons, "classes", watched)
    report = made.run("finetune", "spam", patience=2, **settings)
    assert "step 12: no gain in 2 looks, so training ends here" in report.notes
    before = sha256_of(made.path("checkpoints/spam"))
    rows = made.path("checkpoints/spam/validation.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["3", "3.0"], ["6", "2.0"], ["9", "2.5"], ["12", "2.5"]]

    anew(made, "spam")
    losses = iter([3.0, 2.0, 2.5, 2.5])
    interrupt(made, 7)
    with pytest.raises(TryAgainError):
        made.run("finetune", "spam", patience=2, **settings)
    made.run("finetune", "spam", patience=2, **settings)
    assert sha256_of(made.path("checkpoints/spam")) == before

    losses = iter([9.0] * 9)
    kept = load_model(made.path("checkpoints/spam")).state_dict()
    anew(made, "spam")
    interrupt(made, 6)
    with pytest.raises(TryAgainError):  # whose checkpoint holds the weights after two epochs
        made.run("finetune", "spam", **settings)
    [place] = made.path("scratch/finetune@spam").glob("*/step-00000006/model.safetensors")
    state = load_file(place)
    learned_whole = ["head.weight"] if lora_rank else [*kept]
    assert all(torch.equal(kept[name], state[name]) for name in learned_whole)


def test_fewer_rows_at_once_learn_the_same(made: Any) -> None:
    """The curve is that of whole batches but for rounding, for a classifier, responses and preferences."""
    made.run("pretrain", dropout=0.0)  # whose noise would be another
    with_examples(made, preferences=preferences())
    dpo = {"task": "preferences", "start": "assistant", "optimizer": "adamw"}
    for name, changes in (("spam", {}), ("assistant", {}), ("spam", dpo)):
        losses = []
        for rows in (0, 3):
            made.run("finetune", name, rows_at_once=rows, precision="float32", **changes)
            with (made.path(f"checkpoints/{name}") / "training.csv").open() as file:
                losses.append([float(row["train_loss"]) for row in csv.DictReader(file)])
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def preferences() -> list[Preference]:
    """Six pairs a split, in which short answers are liked better."""
    return [
        Preference.of(dataset="votes", split=split, prompt=f"Name {word}.", chosen=word, rejected=f"The {word}")
        for split in ("train", "validation", "test")
        for word in ("cat", "dog", "hen", "cow", "fox", "owl")
    ]


def test_preferences_are_learned_from_another_entry(made: Any, sha256_of: Sha256) -> None:
    """DPO starts from the assistant, whose digest the manifest names, and its curve has accuracy and margin."""
    with_examples(made, preferences=preferences())
    changes = {"task": "preferences", "start": "assistant", "learning_rate": 0.01, "epochs": 4, "optimizer": "adamw"}
    made.run("finetune", "spam", **changes)
    found = made.manifest("checkpoints/spam")
    assert found.inputs["start"] == made.manifest("checkpoints/assistant").digest
    assert (found.facts["task"], found.facts["datasets"], found.facts["template"]) == (
        "preferences",
        ["votes"],
        "plain",
    )
    with (made.path("checkpoints/spam") / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["step", "validation_loss", "validation_accuracy", "validation_margin"]
    assert float(rows[-1]["validation_accuracy"]) == 1.0
    assert float(rows[-1]["validation_margin"]) > float(rows[0]["validation_margin"])
    before = sha256_of(made.path("checkpoints/spam"))
    anew(made, "spam")
    interrupt(made, 3)
    with pytest.raises(TryAgainError):
        made.run("finetune", "spam", **changes)
    made.run("finetune", "spam", **changes)
    assert sha256_of(made.path("checkpoints/spam")) == before


def test_nothing_starts_from_a_classifier(made: Any) -> None:
    """A classifier has lost the head that writes, so a fine-tuning from it is refused."""
    with pytest.raises(ConfigurationError, match="checkpoints/spam is a classifier, which nothing starts from"):
        made.run("finetune", "assistant", start="spam")


def test_documents_are_learned_on(made: Any) -> None:
    """Continued pretraining takes the documents of the sources named, and forgets less than nothing of them."""
    made.run("finetune", "assistant", task="language-model", datasets=["texts"], batch_size=2, epochs=3)
    facts = made.manifest("checkpoints/assistant").facts
    assert (facts["task"], facts["datasets"], facts["template"]) == ("language-model", ["texts"], None)
    assert facts["forgetting"]["bits_per_byte_after"] < facts["forgetting"]["bits_per_byte_before"]


def test_packed_instructions_take_fewer_steps(made: Any) -> None:
    """Of six instructions all but the last fit into rows of 192 tokens, so that an epoch is one step, not two."""
    made.run("finetune", "assistant", packing="packed")
    with (made.path("checkpoints/assistant") / "training.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert made.manifest("checkpoints/assistant").facts["training_examples"] == 6


def test_a_rare_class_can_be_weighed_up_or_the_frequent_one_cut(made: Any) -> None:
    """With balanced weights all messages are learned, with balance as many of each class; both differ from neither."""
    rows = list(read_records(made.path("examples/clean/messages.parquet"), Message))
    rare = [row for row in rows if row.label == "ham" or row.split != "train" or "cat" in row.text]
    with_examples(made, messages=rare)
    weights, counts = [], []
    for changes in ({}, {"class_weights": "balanced"}, {"balance": True}):
        made.run("finetune", "spam", **changes)
        counts.append(made.manifest("checkpoints/spam").facts["training_examples"])
        weights.append(load_model(made.path("checkpoints/spam")).state_dict()["head.weight"])
    assert counts == [7, 7, 2]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_teacher_is_listened_to(made: Any) -> None:
    """An exported model teaches, once its digest stands in the params: without it, or with another, it is refused."""
    teacher = str(made.path("exports/base"))
    with pytest.raises(ConfigurationError, match=r"finetunes\.assistant\.teacher_sha256 is missing; for .* set it to"):
        made.run("finetune", "assistant", teacher=teacher)
    with pytest.raises(IntegrityError, match=r"but finetunes\.assistant\.teacher_sha256 is 00"):
        made.run("finetune", "assistant", teacher=teacher, teacher_sha256="00")
    changes = {"teacher": teacher, "teacher_sha256": digest_of_model(Path(teacher)), "teacher_share": 1.0}
    losses = []
    for settings in ({}, changes):
        made.run("finetune", "assistant", **settings)
        with (made.path("checkpoints/assistant") / "training.csv").open() as file:
            losses.append(float(next(csv.DictReader(file))["train_loss"]))
    # Taught by what it was made from, it disagrees at first by no more than its dropout.
    assert losses[1] < 0.1 * losses[0]
    with pytest.raises(ConfigurationError, match="a teacher teaches instructions and documents"):
        made.run("finetune", "spam", **changes)


def test_forgetting_is_measured_on_the_same_text(made: Any) -> None:
    """Before, it is the base's bits per byte whatever the task; a head alone that learned leaves it as it was."""
    made.run("finetune", "spam", trainable="head")
    forgetting = made.manifest("checkpoints/spam").facts["forgetting"]
    assert forgetting["bits_per_byte_after"] == forgetting["bits_per_byte_before"]
    other = made.manifest("checkpoints/assistant").facts["forgetting"]
    assert other["bits_per_byte_before"] == forgetting["bits_per_byte_before"]


@pytest.mark.parametrize("name", ["assistant", "spam"])
def test_from_scratch_owes_the_start_its_shape_alone(made: Any, sha256_of: Sha256, name: str) -> None:
    """Whatever the start's weights are, random ones learn to the same end, and there is nothing to forget."""
    made.run("finetune", name, from_scratch=True)
    first = sha256_of(made.path(f"checkpoints/{name}"))["model.safetensors"]
    assert made.manifest(f"checkpoints/{name}").facts["forgetting"] is None
    other = load_model(made.path("checkpoints/base"))
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(2)
    facts = made.manifest("checkpoints/base").facts
    with manifest.commit(made.path("checkpoints/base"), "checkpoint") as draft:
        save_model(draft.path, other)
        draft.facts |= facts
    made.run("finetune", name, from_scratch=True)
    assert sha256_of(made.path(f"checkpoints/{name}"))["model.safetensors"] == first


def test_an_altered_base_is_refused(made: Any) -> None:
    """Nothing is learned from weights that are not those that pretraining wrote."""
    weights = made.path("checkpoints/base/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"base/model\.safetensors: its bytes are not those of the manifest"):
        made.run("finetune", "spam")
