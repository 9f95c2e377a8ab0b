"""What we export, transformers and tokenizers load, and they answer as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model.conversations import Turn, encode_turns
from model.templates import PLAIN, TEMPLATES, PromptTemplate
from pipeline import encodings
from pipeline.encoder import adversarial_sample
from pipeline.exporters.huggingface import write_tokenizer
from pipeline.loaded_model import load
from pipeline.tokenizer_json import merges

TEXTS = [
    "The cat sleeps in the barn, café 🌍 barn.",
    "Größe, naïve, 東京, Москва, العربية, हिन्दी, 👩‍👩‍👧 🇪🇸",
    "def f(x):\n\treturn {'a': [1, 22, 333]}  # it's\n\n\n    x != y;\r\n",
    "  leading, trailing  ",
    "a\u00a0b\u2028c\u3000d\x00e\ufeff",
    "I'll've he'd 'S 'Re don't",
    "١٢٣ ½ x² ⅷ 12345678",
    "",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "assistant"])
def test_transformers_computes_the_same_logits(made: Any, name: str) -> None:
    """AutoModelForCausalLM loads the folder, and its logits differ from ours by less than 1e-4."""
    from transformers import AutoModelForCausalLM

    folder = made.path(f"exports/{name}")
    ours = load(folder)
    ids = torch.tensor([ours.encoding.encode_ordinary(TEXTS[0])[:40]])
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = ours.model.logits(ours.model(ids))
        found = theirs(ids).logits
    assert (found - expected).abs().max() < 1e-4
    assert (theirs.config.eos_token_id, theirs.config.vocab_size) == (ours.encoding.eot_token, 300)


@pytest.mark.slow
def test_transformers_classifies_alike(made: Any) -> None:
    """AutoModelForSequenceClassification loads the classifier with its labels, and gives the same probabilities."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = made.path("exports/spam")
    texts = ["see you soon", "win a prize now, cat number 7"]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    ours = load(folder).classify(texts)
    assert model.config.id2label == {0: "ham", 1: "spam"}
    for row, answer in zip(found.tolist(), ours, strict=True):
        assert row == pytest.approx([answer["probabilities"]["ham"], answer["probabilities"]["spam"]], abs=1e-4)


@pytest.mark.slow
def test_transformers_gives_the_ids_of_tiktoken(made: Any) -> None:
    """AutoTokenizer gives tiktoken's ids for many languages, emoji and code, and decodes them to the text."""
    from transformers import AutoTokenizer

    folder = made.path("exports/base")
    encoding = encodings.load_encoding(folder / encodings.RANKS_FILE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [encoding.encode_ordinary(text) for text in TEXTS]
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == expected
    assert [tokenizer.decode(ids) for ids in expected] == TEXTS
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (encoding.eot_token, 192)


@pytest.mark.parametrize("pattern", encodings.PATTERNS)
def test_tokenizers_gives_the_ids_of_tiktoken(tmp_path: Path, pattern: encodings.Pattern) -> None:
    """tokenizer.json read by tokenizers itself gives the same ids, for a vocabulary with merges of many bytes."""
    from tokenizers import Tokenizer

    texts = [*TEXTS, *adversarial_sample(), "cafe\u0301 A\u030a"]
    ranks = encodings.train_ranks(texts * 3, 700, pattern)
    write_tokenizer(ranks, tmp_path, context_length=8, pattern=pattern)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # <|endoftext|> in a text is text
    encoding = encodings.encoding_of(ranks, pattern=pattern)
    assert [tokenizer.encode(text).ids for text in texts] == [
        encodings.encode(encoding, text).tolist() for text in texts
    ]


def test_merges_are_found_again_from_ranks() -> None:
    """Each token is split into the two that were merged to make it, in the order in which they were."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257, b"abab": 258, b"ababc": 259}
    assert merges(ranks) == [(b"a", b"b"), (b"ab", b"c"), (b"ab", b"ab"), (b"ab", b"abc")]


def test_a_token_that_no_merge_reaches_is_found_as_a_whole_piece(tmp_path: Path) -> None:
    """As 588 of Llama 3's: tiktoken finds one only where a piece of text is it, and so does tokenizer.json.

    A token that only a later one's merge reaches ("wxy" over "wx") has its pair all the same.
    """
    from tokenizers import Tokenizer

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"wxy": 256, b"wx": 257, b" ab": 258, b" abcd": 259}
    ranks |= {b" a": 260}
    assert merges(ranks) == [(b"wx", b"y"), (b"w", b"x"), (b" a", b"b"), (b" ", b"a")]
    write_tokenizer(ranks, tmp_path, context_length=8)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    encoding = encodings.encoding_of(ranks)
    for text in (" abcd abcde", "abcd", "wxy wxyz xwxy", " ab aba"):
        assert tokenizer.encode(text).ids == encodings.encode(encoding, text).tolist()
    assert 259 in tokenizer.encode(" abcd").ids
    assert encodings.read_ranks(tmp_path / "tokenizer.json") == ranks


def test_writing_twice_gives_equal_bytes(tmp_path: Path) -> None:
    """The tokenizer's files depend on the ranks alone."""
    ranks = encodings.train_ranks(TEXTS, 270)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tokenizer(ranks, tmp_path / name, context_length=8)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_transformers_renders_talks_as_training_did(made: Any, tmp_path: Path, template: PromptTemplate) -> None:
    """`apply_chat_template` gives the ids that were learned of a talk, and before a response those that are asked."""
    from transformers import AutoTokenizer

    ranks = encodings.read_ranks(made.path("tokens/tokenizer.tiktoken"))
    encoding = encodings.load_encoding(made.path("tokens/tokenizer.tiktoken"))
    write_tokenizer(ranks, tmp_path, context_length=192, chat_template=template.chat_template())
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    talk = [Turn("system", "Be kind {x}."), Turn("user", "Hi, 😀"), Turn("assistant", "Hello."), Turn("user", "2+2?")]
    encode = encoding.encode_ordinary
    ours = encode_turns(encode, template, [*talk, Turn("assistant", "4")], end_id=encoding.eot_token)
    messages = [turn._asdict() for turn in talk]
    answered = [*messages, {"role": "assistant", "content": "4"}]
    learned = ours.ids if template.closing else [*ours.ids, encoding.eot_token]
    assert theirs.apply_chat_template(answered, return_dict=False) == learned
    assert theirs.apply_chat_template(messages[1:2], add_generation_prompt=True, tokenize=False) == template.prompt(
        "Hi, 😀"
    )


@pytest.mark.slow
def test_an_instructed_model_leaves_with_its_chat_template(made: Any) -> None:
    """The exported assistant's tokenizer knows how to ask; the classifier's, which nobody talks to, does not."""
    from transformers import AutoTokenizer

    found = [
        AutoTokenizer.from_pretrained(made.path(f"exports/{name}")).chat_template for name in ("assistant", "spam")
    ]
    assert found == [PLAIN.chat_template(), None]
