"""The fast encoder gives the reference's ids for every text there is, and steps aside when it does not."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import encodings
from pipeline.encoder import Encoder, adversarial_sample
from pipeline.errors import DataError
from pipeline.tokenizer_json import merges

END = encodings.END_OF_TEXT


@pytest.fixture(scope="module", params=["gpt2", "cl100k", "o200k", "qwen2"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary trained on the adversarial sample, so that its merges reach into the odd corners."""
    path = tmp_path_factory.mktemp(request.param) / "own.tiktoken"
    encodings.write_ranks(encodings.train_ranks(adversarial_sample() * 3, 700, request.param), path, request.param)
    return path


@pytest.fixture(scope="module")
def encoder(ranks: Path) -> Encoder:
    return Encoder(ranks)


def as_read(encoder: Encoder, text: str) -> str:
    """The text that the ids stand for: with Qwen's pattern it is brought to NFC."""
    return unicodedata.normalize("NFC", text) if encoder.encoding._pat_str in encodings.COMPOSING else text


def test_the_fast_encoder_is_in_use(encoder: Encoder) -> None:
    """It passes its own check on every pattern."""
    assert (encoder.note, encoder._fast is not None) == ("", True)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t'sS1é中🌍<|>"))))
def test_ids_are_the_references(encoder: Encoder, text: str) -> None:
    """Any text has the ids that tiktoken gives, and decodes to itself."""
    ids = encoder(text.encode()).tolist()
    assert ids == encodings.encode(encoder.encoding, text).tolist()
    assert encoder.encoding.decode(ids) == as_read(encoder, text)


def test_special_tokens_in_a_text_are_text(encoder: Encoder) -> None:
    """<|endoftext|> in a text gives ordinary ids."""
    assert encoder.encoding.eot_token not in encoder(f"{END}a {END}\n{END}".encode())


@pytest.mark.parametrize("text", ["x", "中"])
def test_a_million_characters_without_a_space_take_bounded_time(encoder: Encoder, text: str) -> None:
    """One word of a million characters is encoded in seconds, to the reference's ids."""
    begun = time.process_time()
    ids = encoder((text * 1_000_000).encode())
    assert time.process_time() - begun < 5
    assert encoder.encoding.decode(ids.tolist()) == text * 1_000_000


def test_a_million_spaces_are_encoded(encoder: Encoder) -> None:
    """White space that overflows tiktoken's stack is encoded; with tiktoken alone it is an error of the data."""
    text = " " * 1_500_000 + "x"
    assert encoder.encoding.decode_bytes(encoder(text.encode()).tolist()) == text.encode()


def test_without_the_fast_encoder_too_much_white_space_is_an_error_of_ours(ranks: Path) -> None:
    """tiktoken's overflow becomes a DataError without the text in it."""
    if encodings.pattern_of(ranks) == "gpt2":
        with pytest.raises(DataError, match="a million white-space characters"):
            Encoder(ranks, fast=False)((" " * 3_000_000 + "x").encode())


def test_a_token_that_no_merge_makes_is_found(tmp_path: Path) -> None:
    """As in Llama 3's vocabulary, whose 588 such tokens gigatoken does not read from a ranks file, but otherwise."""
    ranks = encodings.train_ranks(adversarial_sample() * 3, 700, "cl100k")
    ranks |= {b" zebra": len(ranks), b"zyzzyva": len(ranks) + 1}
    assert len(merges(ranks)) == len(ranks) - 258
    encodings.write_ranks(ranks, tmp_path / "own.tiktoken", "cl100k")
    encoder = Encoder(tmp_path / "own.tiktoken")
    assert (encoder.note, encoder._fast is not None) == ("", True)
    for text in (" zebra", "a zebra, zebras zebra", "zyzzyva zyzzyvas", END):
        assert encoder(text.encode()).tolist() == encoder.encoding.encode_ordinary(text)
    assert encoder(b"a zebra").tolist()[-1] == ranks[b" zebra"]


def test_an_encoder_that_differs_is_not_used(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the sample comes out otherwise than by tiktoken, tiktoken does the work and the note says so."""

    class Wrong:
        def encode(self, text: bytes) -> Any:
            return np.zeros(len(text), np.uint32)

    monkeypatch.setattr(Encoder, "_open", lambda self: Wrong())
    encoder = Encoder(ranks)
    assert "gives other ids than tiktoken" in encoder.note
    assert encoder(b"The cat.").tolist() == encoder.encoding.encode_ordinary("The cat.")


def test_beginning_anew_changes_nothing(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder whose memory is dropped every few texts gives the same ids."""
    once = Encoder(ranks)
    before = [once(text.encode()).tolist() for text in adversarial_sample()[-20:]]
    monkeypatch.setattr("pipeline.encoder.RENEW_AFTER_BYTES", 100)
    encoder = Encoder(ranks)
    assert [encoder(text.encode()).tolist() for text in adversarial_sample()[-20:]] == before


@pytest.mark.slow
def test_every_code_point_is_split_alike(tmp_path: Path, ranks: Path) -> None:
    """With merges that betray where a text was split, each code point that is not sent to the reference gives its ids.

    Without the detour for unassigned characters 4,657 of them do not (cl100k; tiktoken 0.14, gigatoken 0.10).
    """
    pattern = encodings.pattern_of(ranks)
    leads, tails = range(0xC2, 0xF5), range(0x80, 0xC0)
    merges = (
        [b"a" + bytes([b]) for b in leads] + [b" " + bytes([b]) for b in leads] + [bytes([b]) + b"1" for b in tails]
    )
    pieces = [bytes([b]) for b in range(256)] + merges + [bytes([b]) + b"b" for b in tails]
    encodings.write_ranks({piece: rank for rank, piece in enumerate(pieces)}, tmp_path / "probe.tiktoken", pattern)
    encoder = Encoder(tmp_path / "probe.tiktoken")
    assert encoder.note == ""
    different = []
    for point in (point for point in range(0x20000) if not 0xD800 <= point < 0xE000):
        c = chr(point)
        text = f"a{c}1 {c}b{c}\n{c} {c}{c}'S"
        if not np.array_equal(encoder(text.encode()), encodings.encode(encoder.encoding, text)):
            different.append(hex(point))
    assert different == []
