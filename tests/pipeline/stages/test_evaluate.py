"""Evaluation scores a model on what it never saw, beside what no model at all would score."""

from __future__ import annotations

import csv
import json
import math
import shutil
from typing import Any

import pytest

from model.checkpoint import load_model
from model.scoring import validation_loss
from pipeline import encodings, manifest
from pipeline.digests import digest_of
from pipeline.documents import Instruction, Message, Question, Translation, read_records, write_records
from pipeline.errors import DataError, IntegrityError
from pipeline.evaluations.answering import data_digest
from pipeline.instruction_rows import instruction_rows
from pipeline.shards import map_split


def metrics(project: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.path(f"evaluations/{name}") / "metrics.json").read_text())
    return found


def samples(project: Any, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((project.path(f"evaluations/{name}") / "samples.json").read_text())
    return found


def test_a_language_model_is_scored_in_bits_per_byte(made: Any) -> None:
    """Every validation token counts once, and the bits are shared among the bytes that the text had."""
    facts = made.manifest("tokens").facts
    found = metrics(made, "base")
    tokens = map_split(made.path("tokens"), "validation", facts)
    score = validation_loss(load_model(made.path("checkpoints/base")), tokens, start_id=299)
    assert (found["n"], found["main"], found["higher_is_better"]) == (len(tokens), "bits_per_byte", False)
    assert found["bits_per_byte"] == pytest.approx(score.nats / math.log(2) / facts["n_bytes"]["validation"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["validation_loss"]))
    assert found["data"] == facts["texts_digest"]["validation"]
    assert [sample["prompt"] for sample in samples(made, "base")] == ["The cat"]


def test_a_classifier_is_scored_beside_the_majority(made: Any) -> None:
    """Accuracy stands beside that of always answering the commonest class, and the confusion holds every message."""
    rows = list(read_records(made.path("examples/clean/messages.parquet"), Message))
    test = [row for row in rows if row.split == "test"]
    found = metrics(made, "spam")
    with (made.path("evaluations/spam") / "confusion.csv").open() as file:
        confusion = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    assert (found["n"], found["majority_baseline_accuracy"]) == (12, 0.5)
    assert sorted(actual for actual, _ in confusion) == sorted(row.label for row in test)
    assert found["accuracy"] == sum(actual == predicted for actual, predicted in confusion) / 12
    assert found["f1"] == pytest.approx((found["f1_ham"] + found["f1_spam"]) / 2)
    assert found["data"] == digest_of([row.id for row in test])
    assert (found["main"], found["higher_is_better"]) == ("accuracy", True)
    right = sum(sample["response"] == sample["expected"] for sample in samples(made, "spam"))
    assert (len(samples(made, "spam")), right) == (12, round(found["accuracy"] * 12))


def test_an_instructed_model_is_scored_by_its_answers(made: Any) -> None:
    """Exact match decides, and the language it still speaks is measured too."""
    test = [row for row in instruction_rows(made.path("examples/clean"), []) if row.split == "test"]
    found = metrics(made, "assistant")
    assert (found["main"], found["higher_is_better"], found["n"], found["data"]) == (
        "exact_match", True, 6, data_digest(test),
    )  # fmt: skip
    assert found["exact_match"] == sum(sample.get("right") == "yes" for sample in samples(made, "assistant")) / 6
    assert found["bits_per_byte"] > 0


def test_every_figure_of_the_table_has_an_interval_around_it(made: Any) -> None:
    """Base, classifier and assistant each show how sure their figures are, and on how many items they rest."""
    for name, expected in (("base", "text: bits per byte"), ("spam", "spam: accuracy"), ("assistant", "instructions")):
        table = metrics(made, name)["table"]
        assert table[0]["name"].startswith(expected)
        assert all(row["low"] <= row["value"] <= row["high"] and row["n"] for row in table)
        assert table[0]["baseline"] is not None
        assert table[0]["data"] == metrics(made, name)["data"]


def test_each_kind_of_example_is_scored_in_its_own_way(made: Any) -> None:
    """Translations, summaries and questions are recognised by their records, summaries by the name of their set."""
    examples = made.path("examples/clean")
    rows: dict[type[Any], list[Any]] = {
        Instruction: list(read_records(examples / "instructions.parquet", Instruction)),
        Translation: [],
        Question: [],
    }
    for split in ("train", "test"):
        rows[Instruction].append(
            Instruction.of(dataset="summaries", split=split, instruction="Sum up.", input="A. B.", response="A.")
        )
        rows[Translation].append(
            Translation.of(
                dataset="t",
                split=split,
                source_language="English",
                target_language="German",
                source="owl",
                target="Eule",
            )
        )
        rows[Question].append(
            Question.of(dataset="q", split=split, question="Who?", passage=f"The {split} owl sleeps.", answer="owl")
        )
    with manifest.commit(examples, "examples") as draft:
        shutil.copytree(examples / "messages.parquet", draft.path / "messages.parquet")
        for kind, name in ((Instruction, "instructions"), (Translation, "translations"), (Question, "questions")):
            write_records(rows[kind], kind, draft.path / f"{name}.parquet")
    made.run("finetune", "assistant")
    made.run("evaluate", "assistant")
    found = metrics(made, "assistant")
    assert {"exact_match", "chrf", "bleu", "rougeL", "recall_at_1", "mrr", "answer_f1"} <= found.keys()
    assert found["n"] == 6
    made.run("evaluate", "assistant", retriever="embeddings", passages_read=1)
    assert metrics(made, "assistant")["recall_at_5"] == 1.0


@pytest.mark.parametrize("name", ["base", "assistant", "spam"])
def test_evaluating_twice_gives_equal_figures(made: Any, name: str) -> None:
    """The same model and data give the same bytes, samples included."""
    before = made.manifest(f"evaluations/{name}").digest
    report = made.run("evaluate", name)
    assert made.manifest(f"evaluations/{name}").digest == before
    numbers = {key: value for key, value in metrics(made, name).items() if isinstance(value, float)}
    assert report.numbers == numbers


def test_another_vocabulary_does_not_change_what_is_compared(made: Any) -> None:
    """The digest of the data is that of the held-out texts: figures of two vocabularies in bits per byte compare."""
    before = metrics(made, "base")["data"]
    for stage in ("tokenize", "pretrain"):
        made.run(stage, **({"vocab_size": 290} if stage == "tokenize" else {}))
    made.run("evaluate", "base")
    assert metrics(made, "base")["data"] == before
    assert made.manifest("tokens").facts["vocab_size"] == 290


def test_figures_name_their_parents(made: Any) -> None:
    """An evaluation's inputs are the digests of model, tokens and examples."""
    assert made.manifest("evaluations/spam").inputs == {
        "checkpoint": made.manifest("checkpoints/spam").digest,
        "tokens": made.manifest("tokens").digest,
        "examples": made.manifest("examples/clean").digest,
    }


def test_a_model_that_is_not_there_is_an_error(made: Any) -> None:
    """Without a checkpoint there is nothing to score, and the message says which stage makes it."""
    (made.path("checkpoints/spam") / "manifest.json").unlink()
    with pytest.raises(DataError, match="checkpoints/spam is incomplete; run the stage that makes it again"):
        made.run("evaluate", "spam")


def test_altered_weights_are_not_scored(made: Any) -> None:
    """A flipped bit in the weights is an IntegrityError, and the earlier figures stay."""
    before = made.manifest("evaluations/base")
    weights = made.path("checkpoints/base/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors: its bytes are not those of the manifest"):
        made.run("evaluate", "base")
    assert made.manifest("evaluations/base") == before


def test_a_ranks_file_of_another_size_is_noticed(made: Any) -> None:
    """The vocabulary in use is the one whose fingerprint travels with the tokens and the model."""
    encoding = encodings.load_encoding(made.path("tokens") / encodings.RANKS_FILE)
    for place in ("tokens", "checkpoints/base", "checkpoints/spam"):
        assert made.manifest(place).facts["vocabulary_fingerprint"] == encodings.fingerprint(encoding)
