"""A folder in the hub's layout is read by the hub's own code, as its README says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.documents import Conversation, Document, Message
from pipeline.errors import ConfigurationError, DataError, DependencyError
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: parts/*.jsonl
  - split: test
    path: held-out.jsonl
---
# A data set
"""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two splits whose files only the README tells apart."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "README.md").write_text(README)
    turns = [{"role": "user", "content": "Hi"}]
    for number in (1, 2):
        line = json.dumps({"content": f"text {number}", "messages": turns})
        (tmp_path / "parts" / f"{number}.jsonl").write_text(line + "\n")
    (tmp_path / "held-out.jsonl").write_text(json.dumps({"content": "test", "messages": turns}) + "\n")
    return tmp_path


def entry(layout: Path | str, **more: object) -> Entry:
    values = {"kind": "documents", "licence": "x", "origin": "y", "fields": {"text": "content"}, **more}
    return Entry(path=f"huggingface:{layout}", **values)  # type: ignore[arg-type]


@pytest.mark.slow
def test_splits_are_those_of_the_readme(layout: Path) -> None:
    """The named split is read, by the README's table, in order; its files' digest is among the facts."""
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    corpus = Corpus(Isolation())
    found = list(corpus.read("hub", entry(layout), key="k"))
    assert [record.text for record in found if isinstance(record, Document)] == ["text 1", "text 2"]
    assert (corpus.facts["hub"]["files"], corpus.facts["hub"]["records"]) == (4, 2)
    (talk,) = corpus.read("hub", entry(layout, kind="conversations", split="test", fields={}), key="k")
    assert talk == Conversation.of(dataset="hub", split="test", messages='[{"role":"user","content":"Hi"}]')
    with pytest.raises(DataError, match="its split 'validation' cannot be read"):
        list(corpus.read("hub", entry(layout, split="validation"), key="k"))


@pytest.mark.slow
def test_a_clone_of_the_hubs_is_read(tmp_path: Path) -> None:
    """With what git and the hub's tools leave there, classes by number, two configurations and splits of its own."""
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    (tmp_path / ".gitattributes").write_text("*.parquet filter=lfs")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").touch()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train_sft.jsonl").write_text(json.dumps({"text": f"from {name}", "label": 1}) + "\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files:\n  - split: train_sft\n    path: {name}/train_sft.jsonl\n"
            for name in ("one", "two")
        )
        + "dataset_info:\n"
        + "".join(
            f"- config_name: {name}\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
            "      class_label:\n        names:\n          '0': ham\n          '1': spam\n"
            for name in ("one", "two")
        )
        + "---\n"
    )
    described = entry(tmp_path, kind="messages", fields={}, configuration="two", hub_split="train_sft")
    [message] = Corpus(Isolation()).read("hub", described, key="k")
    assert message == Message.of(dataset="hub", split="train", label="spam", text="from two")


def test_a_data_set_of_the_hub_is_named_with_its_commit() -> None:
    """OWNER/NAME alone would mean something else tomorrow."""
    with pytest.raises(ConfigurationError, match="no data set of the hub as OWNER/NAME@COMMIT"):
        list(Corpus(Isolation()).read("hub", entry("owner/name"), key="k"))


def test_the_missing_library_is_named_with_its_extra(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DependencyError, match=r"pip install 'homegrown\[hub\]'"):
        list(Corpus(Isolation()).read("hub", entry(layout), key="k"))
