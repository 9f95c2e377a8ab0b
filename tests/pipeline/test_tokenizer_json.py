"""A published tokenizer.json gives the ids that its own library gives, or is refused with what it is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import encodings
from pipeline.encoder import adversarial_sample
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


def with_another_end(content: dict[str, Any]) -> dict[str, Any]:
    """The file's model, after its one special token was given another name than the pipeline's."""
    content["added_tokens"][0]["content"] = "<s>"
    model: dict[str, Any] = content["model"]
    model["vocab"]["<s>"] = model["vocab"].pop("<|endoftext|>")
    return model


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
    """A Split before the bytes, as Llama 3 and Qwen have, gives its pattern."""
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}

    def change(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}

    vocabulary = read_tokenizer_json(changed(published, change))
    assert (len(vocabulary.ranks), vocabulary.pattern) == (267, r"\p{L}+|\s+")
    assert vocabulary.theirs == [*range(268)] and not vocabulary.is_renumbered


def test_digits_one_by_one_give_the_librarys_ids(published: Path) -> None:
    """SmolLM's two steps, single digits and then GPT-2's pattern, are one pattern here: many scripts, emoji and code.

    20,000 random texts of digits, spaces, letters and apostrophes are split alike too.
    """
    tokenizers = pytest.importorskip("tokenizers")
    rng, pieces = random.Random(0), [*" \t\n'sdlvr7½²ⅷx é東🌍.,-٣\u00a0\u3000\u2028\u0301", "'s", "'ll", "  "]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(20_000)]
    texts += [
        "Größe 12, 東京 1２３, Москва  १२३",
        "x = {'a': [1, 22]}  # it's\n\n\n\t x  != 7;\r\n",
        *adversarial_sample(),
    ]
    ranks = encodings.train_ranks(texts[-200:] * 3, 600, "smollm")
    write_tokenizer(ranks, published.parent, context_length=64, pattern="gpt2")

    def change(content: dict[str, Any]) -> None:
        digits = {"type": "Digits", "individual_digits": True}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}

    theirs = tokenizers.Tokenizer.from_file(str(changed(published, change)))
    theirs.encode_special_tokens = True
    ours = encodings.load_encoding(published)
    assert encodings.pattern_of(published) == "smollm"
    assert [encodings.encode(ours, text).tolist() for text in texts] == [
        each.ids for each in theirs.encode_batch(texts)
    ]


def test_special_tokens_may_come_first(tmp_path: Path, smollm_like: Callable[[Path], Path]) -> None:
    """As in SmolLM2's file: our ids are others, and `theirs` leads back; bytes it has no token for get one at the end.

    Its own library drops them; every other text gives its ids.
    """
    tokenizers = pytest.importorskip("tokenizers")
    path = smollm_like(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(path))
    vocabulary, ours = read_tokenizer_json(path), encodings.load_encoding(path)
    n_theirs = library.get_vocab_size()
    unknown = [token for token, rank in vocabulary.ranks.items() if vocabulary.theirs[rank] is None]
    assert unknown and all(len(token) == 1 for token in unknown)
    assert sorted(vocabulary.ranks[token] for token in unknown) == [*range(n_theirs - 2, ours.eot_token)]
    assert vocabulary.is_renumbered and vocabulary.theirs[ours.eot_token] == library.token_to_id("<|endoftext|>") == 0
    known = [id_ for id_ in vocabulary.theirs if id_ is not None]
    assert sorted(known) == [0, *range(2, n_theirs)]  # <|im_start|> is left out

    for text in ["the cat sat", "the  mat's 1234 cats\n\n", ""]:
        ids = encodings.encode(ours, text).tolist()
        assert [vocabulary.theirs[id_] for id_ in ids] == library.encode(text).ids
    text = "a cat \x04 東京"
    assert ours.decode(encodings.encode(ours, text).tolist()) == text != library.decode(library.encode(text).ids)


def test_an_accent_after_its_letter_is_read_as_qwen_reads_it(tmp_path: Path) -> None:
    """Qwen's tokenizer brings text to NFC: a letter and its accent, a Hangul syllable in parts, give its library's ids.

    A ranks file written from it gives them too.
    """
    tokenizers = pytest.importorskip("tokenizers")
    texts = ["cafe\u0301 1234", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "A\u030angstro\u0308m \u212b", "café"]
    ranks = encodings.train_ranks(["the café, a naïve Ångström 한국 " * 20], 285, "qwen2")
    write_tokenizer(ranks, tmp_path, context_length=64, pattern="qwen2")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    assert content["normalizer"] == {"type": "NFC"} and content["pre_tokenizer"]["pretokenizers"][0]["type"] == "Split"
    theirs = tokenizers.Tokenizer.from_file(str(path))
    expected = [theirs.encode(text).ids for text in texts]
    encodings.write_ranks(encodings.read_ranks(path), tmp_path / "own.tiktoken", encodings.pattern_of(path))
    for file in (path, tmp_path / "own.tiktoken"):
        ours = encodings.load_encoding(file)
        assert [encodings.encode(ours, text).tolist() for text in texts] == expected
    assert expected[0][: len(expected[3])] == expected[3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model"].update(byte_fallback=True), "SentencePiece's kind of BPE"),
        (lambda c: c["model"].update(type="Unigram"), "of the type Unigram"),
        (lambda c: c["model"]["vocab"].update({"▁the": 267}), "spells no byte"),
        (lambda c: with_another_end(c)["vocab"].pop("!"), "do not count 0, 1, 2"),
        (lambda c: c["model"]["vocab"].update({"cats": 300}), "1 tokens are made by no merge"),
        (lambda c: c["added_tokens"].append({"id": 300, "content": "  "}), "takes '  ' out of a text"),
        (lambda c: c["model"]["merges"].reverse(), "not in one order"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "changed before it is split"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "NFC is known with the pattern of qwen2, and with no other"),
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
