"""What the sample sets promise: made by their generator, read by the sources, and no test answer learned by heart."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.cleaning.normalise import normalise
from pipeline.cleaning.rejections import Rejection
from pipeline.documents import KINDS, Document, learned_texts
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation
from pipeline.sources.samples import DATASETS, examples

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
SPLITS = ("train", "validation", "test")


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", SAMPLES / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """data/samples/generate.py as a module."""
    return load_generator()


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    """The rows of every file."""
    return {
        f"{kind}/{split}": [json.loads(line) for line in (SAMPLES / kind / f"{split}.jsonl").open(encoding="utf-8")]
        for kind in DATASETS
        for split in SPLITS
    }


@pytest.mark.slow
def test_the_files_are_what_the_generator_writes() -> None:
    """`generate.py --check` makes every row again and finds the same bytes."""
    check = subprocess.run([sys.executable, SAMPLES / "generate.py", "--check"], capture_output=True, text=True)
    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.slow
def test_the_check_names_a_file_that_was_edited(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row changed by hand is found, and writing the files anew mends it."""
    monkeypatch.setattr(generator, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert generator.main() == 0
    edited = tmp_path / "spam" / "test.jsonl"
    edited.write_text(edited.read_text(encoding="utf-8").replace("ham", "spam", 1), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generator.main() == 1
    assert "not what generate.py writes: spam/test.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_line_is_a_record(dataset: str, split: str) -> None:
    """The pipeline's own reader refuses none of the lines, and cleaning would change none."""
    read = list(examples(SAMPLES / dataset / f"{split}.jsonl", dataset, split=split))
    assert {type(record) for record in read} == {KINDS[DATASETS[dataset].kind]}
    texts = [text for record in read if not isinstance(record, Rejection) for text in learned_texts(record)]
    assert all(normalise(text) == text for text in texts)


def test_the_sets_are_as_large_as_they_say(generator: ModuleType, rows: dict[str, list[dict[str, str]]]) -> None:
    """The number of rows, the share of each class, and sizes that do not weigh on a clone."""
    assert {
        dataset: tuple(len(rows[f"{dataset}/{split}"]) for split in SPLITS) for dataset in DATASETS
    } == generator.ROWS  # fmt: skip
    for split in SPLITS:
        spam, opinions = rows[f"spam/{split}"], rows[f"sentiment/{split}"]
        assert sum(row["label"] == "spam" for row in spam) == round(0.45 * len(spam))
        assert sum(row["label"] == "positive" for row in opinions) == len(opinions) // 2
    sizes = [file.stat().st_size for file in SAMPLES.rglob("*") if file.is_file()]
    assert max(sizes) < 1 << 20
    assert sum(sizes) < 2_500_000


def test_german_articles_and_endings_follow_gender_and_case(rows: dict[str, list[dict[str, str]]]) -> None:
    """Only a masculine thing, which is an object here, has "den" or "einen"; its adjective then ends in -en."""
    gender = {"Tisch": "m", "Lampe": "f", "Buch": "n", "Schlüssel": "m", "Tasche": "f", "Hemd": "n"}
    articles = {
        "m": {"den": "en", "einen": "en"}, "f": {"die": "e", "eine": "e"}, "n": {"das": "e", "ein": "es"},
    }  # fmt: skip
    targets = " ".join(row["target"] for split in SPLITS for row in rows[f"translations/{split}"])
    found = re.findall(rf"(\w+) (\w+) ({'|'.join(gender)})\b", targets)
    assert len(found) > 100
    for article, adjective, noun in found:
        assert adjective.endswith(articles[gender[noun]][article.lower()]), (article, adjective, noun)


def test_an_answer_stands_in_its_passage(rows: dict[str, list[dict[str, str]]]) -> None:
    """Whoever reads the passage can answer, and each passage tells three facts of one subject."""
    for split in SPLITS:
        assert all(row["answer"] in row["passage"] for row in rows[f"questions/{split}"])
        assert {row["passage"].count(". ") for row in rows[f"questions/{split}"]} == {2}


def test_the_first_sentence_is_not_always_what_matters(rows: dict[str, list[dict[str, str]]]) -> None:
    """In a notice, the words of the gist stand in the first sentence in a third of all cases, or fewer."""
    first = 0
    for row in rows["summaries/test"]:
        gist = set(re.findall(r"\w+", row["response"]))
        first += len(gist & set(re.findall(r"\w+", row["input"].split(". ")[0]))) >= len(gist) / 2
    assert 0.15 < first / len(rows["summaries/test"]) < 0.4


def test_no_row_stands_twice(rows: dict[str, list[dict[str, str]]]) -> None:
    """Neither within a split nor across two, whatever the case of its letters."""
    for kind in DATASETS:
        spelled = [
            tuple(value.casefold() for value in row.values()) for split in SPLITS for row in rows[f"{kind}/{split}"]
        ]
        assert len(set(spelled)) == len(spelled)


def test_no_held_out_filler_stands_in_the_training_rows(
    generator: ModuleType, rows: dict[str, list[dict[str, str]]]
) -> None:
    """No name, city or thing of validation and test was seen in training, not even in a template; their words were."""
    fillers = generator.read_wordings()["fillers"]
    training = " ".join(text for row in rows["instructions/train"] for text in row.values()).casefold()
    pools = {split: importlib.import_module("making.templates").filler_pools(fillers, split) for split in SPLITS}
    for kind in ("name", "city", "thing", "month"):
        assert not set(pools["train"][kind]) & set(pools["validation"][kind] + pools["test"][kind])
        for filler in pools["validation"][kind] + pools["test"][kind]:
            assert not re.search(rf"\b{filler.casefold()}\b", training), filler
    for kind in ("name", "city", "thing"):
        known = {word for filler in pools["train"][kind] for word in filler.split()}
        assert {word for filler in pools["test"][kind] for word in filler.split()} <= known


def break_wordings(generator: ModuleType, edit: str, wordings: dict[str, Any]) -> dict[str, Any]:
    """The wordings with one thing of the training split put into the test split, or the other way round."""
    broken = copy.deepcopy(wordings)
    if edit == "filler":
        broken["fillers"]["month"]["test"] += " March"
    elif edit == "template":
        broken["spam"]["ham"]["test"].append(wordings["spam"]["ham"]["train"][0].upper())
    elif edit == "variant":
        broken["instructions"]["tasks"]["city"]["test"].append("which city appears in the sentence")
    elif edit == "sentence":
        broken["instructions"]["sentences"]["train"].append(wordings["instructions"]["sentences"]["test"][0])
    elif edit == "word in a template":
        held_out = importlib.import_module("making.templates").filler_pools(wordings["fillers"], "test")["thing"][0]
        broken["instructions"]["sentences"]["train"].append(f"{{name}} saw the {held_out} in {{city}}.")
    return broken


@pytest.mark.parametrize("edit", ["filler", "template", "variant", "sentence", "word in a template"])
def test_the_generator_refuses_what_two_splits_would_share(generator: ModuleType, edit: str) -> None:
    """A template, one of its variants or a filler in two splits stops the generator, which names it."""
    wordings = generator.read_wordings()
    with pytest.raises(ValueError, match=r"stands in"):
        generator.generate(break_wordings(generator, edit, wordings))


def test_every_gap_has_a_filler_and_every_answer_follows_from_its_row(rows: dict[str, list[dict[str, str]]]) -> None:
    """No brace or choice is left, and the words of a copied answer stand in the instruction or the input."""
    composed = re.compile(
        r"hello|nice to meet you|goodbye|see you soon|dear|thank you for the|please come to|name|city"
    )
    labels = {
        "question", "statement", "exclamation", "e-mail address", "web link", "time", "price", "phone number", "date",
    }  # fmt: skip
    for name, some in rows.items():
        for row in some:
            assert not re.search(r"[{}\[\]|]", "".join(row.values()))
            if name.startswith("instructions") and row["response"] not in labels:
                asked = (row["instruction"] + " " + row["input"]).lower()
                answer = composed.sub("", row["response"].lower())
                assert all(word in asked for word in re.findall(r"[\w@.]*\w", answer)), row


def test_no_one_can_be_called_or_visited(rows: dict[str, list[dict[str, str]]]) -> None:
    """Telephone numbers are from the ranges kept for fiction, domains from those kept for examples."""
    texts = [" ".join(row.values()) for some in rows.values() for row in some]
    for text in texts:
        for host in re.findall(r"(?:https?://|www\.|@)([\w.-]+\w)", text):
            assert re.search(r"(^|\.)(example(\.(com|org|net))?|test)$", host), host
        for number in re.findall(r"\b0\d[\d ]{6,}\d", text):
            assert number.startswith(("07700 900", "020 7946 0", "08081 570")), number
        for number in re.findall(r"\b555\D?\d+", text):
            assert re.fullmatch(r"555.01\d\d|555 01", number), number


def test_neither_class_is_told_by_one_word(rows: dict[str, list[dict[str, str]]]) -> None:
    """Ham speaks of prizes, money, calls and links too, and some spam names nobody to call and no link to open."""
    by_label = {
        label: [row["text"].lower() for row in rows["spam/train"] if row["label"] == label] for label in ("ham", "spam")
    }
    for word in ("prize", "free", "won", "call", "£", "http", "urgent", "reply", "account", "offer", "dear"):
        counts = {label: sum(word in text for text in texts) for label, texts in by_label.items()}
        if word == "dear":
            assert counts["spam"]
        else:
            assert min(counts.values()) >= 5, (word, counts)
    plain = [text for text in by_label["spam"] if not re.search(r"http|www|\.example|\d{4}", text)]
    assert len(plain) > 0.05 * len(by_label["spam"])


def test_the_texts_are_read_as_documents() -> None:
    """The default content of the user's own text folder is a few short documents."""
    entry = Entry(path=str(SAMPLES / "texts"), kind="documents", licence="CC0-1.0", origin="samples")
    read = list(Corpus(Isolation()).read("texts", entry, key="ingest.texts"))
    assert len(read) == 3
    assert all(isinstance(record, Document) and len(record.text) > 1000 for record in read)
