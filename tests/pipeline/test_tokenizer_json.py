"""A published tokenizer.json gives the ids that its own library gives, or is refused with what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import encodings
from pipeline.errors import ConfigurationError
from pipeline.exporters.huggingface import write_tokenizer
from pipeline.tokenizer_json import read_tokenizer_json

TEXTS = ["the cat sat", "  café 🌍\n\nthe  mat's 1234 <|endoftext|>", ""]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A small vocabulary as our exporter, in Hugging Face's form, writes it."""
    ranks = encodings.train_ranks(["the cat sat on the mat, the cat's mat " * 20], 268)
    write_tokenizer(ranks, tmp_path, context_length=64)
    return tmp_path / "tokenizer.json"


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file after `change` has edited its content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_ids_are_those_of_the_tokenizers_library(published: Path) -> None:
    """Ranks read from the file encode ordinary text as the library does with the file itself."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(published))
    ours = encodings.load_encoding(published)
    assert ours.eot_token == theirs.token_to_id("<|endoftext|>")
    for text in TEXTS:
        plain = text.replace("<|endoftext|>", "")
        assert ours.encode_ordinary(plain) == theirs.encode(plain).ids


def test_another_split_pattern_is_found(published: Path) -> None:
    """A Split before the bytes, as Llama 3 and Qwen have, gives its pattern, and NFC before it is let pass."""
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}

    def change(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
        content["normalizer"] = {"type": "NFC"}

    ranks, pattern = read_tokenizer_json(changed(published, change))
    assert (len(ranks), pattern) == (267, r"\p{L}+|\s+")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model"].update(byte_fallback=True), "SentencePiece's kind of BPE"),
        (lambda c: c["model"].update(type="Unigram"), "of the type Unigram"),
        (lambda c: c["model"]["vocab"].update({"▁the": 267}), "spells no byte"),
        (lambda c: c["model"]["vocab"].pop("!"), "do not count 0, 1, 2"),
        (lambda c: c["model"]["merges"].reverse(), "not in one order"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "changed before it is split"),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "changed before it is split"),
        (lambda c: c.update(pre_tokenizer={"type": "Metaspace"}), "split by"),
        (lambda c: c.pop("model"), "not a tokenizer.json"),
    ],
)
def test_what_ranks_cannot_be_is_refused(published: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    """Another kind of tokenizer, gaps in the ids, another order or a change of the text: one line, naming the file."""
    with pytest.raises(ConfigurationError, match=said) as refusal:
        read_tokenizer_json(changed(published, change))
    assert str(published) in str(refusal.value)
