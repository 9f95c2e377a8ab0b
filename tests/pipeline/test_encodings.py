"""Text becomes ids and comes back; a ranks file is tiktoken's; GPT-2's own vocabulary gives GPT-2's own ids."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import rustbpe
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches import batch_of
from pipeline import encodings
from pipeline.encodings import END_OF_TEXT, encode, encoding_of, fingerprint, read_ranks, train_ranks, write_ranks
from pipeline.errors import ConfigurationError, DataError

TEXTS = ["The cat sat on the mat.", "The hat sat on the cat.", "A bat, a rat and a cat: that's that!"] * 3
VOCAB = 280
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
RANKS = train_ranks(TEXTS, VOCAB)
ENCODING = encoding_of(RANKS)

SHARED = Path(os.environ.get("HOMEGROWN_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
GPT2 = SHARED / "gpt2-tokenizer"


@pytest.fixture(scope="module")
def gpt2() -> tiktoken.Encoding:
    """GPT-2's encoding, from the two files that were published with the model."""
    if not (GPT2 / "vocab.bpe").exists():
        pytest.skip(f"GPT-2's vocabulary is not in {GPT2}; set HOMEGROWN_SHARED_DATA to the folder that holds it")
    return encodings.load_encoding(GPT2 / "vocab.bpe")


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_decoding_undoes_encoding(text: str) -> None:
    """Every text there is comes back from its ids, character for character."""
    assert ENCODING.decode(encode(ENCODING, text).tolist()) == text


@settings(max_examples=100, deadline=None)
@given(before=TEXT, after=TEXT)
def test_special_tokens_inside_a_text_are_text(before: str, after: str) -> None:
    """<|endoftext|> in a text encodes to ordinary ids that decode to those characters: the end is only ours to set."""
    text = before + END_OF_TEXT + after
    ids = encode(ENCODING, text).tolist()
    assert (max(ids) < ENCODING.eot_token, ENCODING.decode(ids)) == (True, text)


def test_the_end_of_text_is_the_last_id() -> None:
    """A vocabulary of 280 entries has 279 ranks, and <|endoftext|> is number 279."""
    assert (len(RANKS), ENCODING.n_vocab, ENCODING.eot_token) == (VOCAB - 1, VOCAB, VOCAB - 1)


def test_training_twice_gives_equal_ranks() -> None:
    """The ranks are a function of the texts and the size of the vocabulary."""
    assert train_ranks(TEXTS, VOCAB) == RANKS
    assert fingerprint(encoding_of(train_ranks(TEXTS, VOCAB))) == fingerprint(ENCODING)


def test_a_larger_vocabulary_goes_on_where_a_smaller_one_ends() -> None:
    """Merges are found one after the other, so the ranks of a smaller vocabulary are the first of a larger one's."""
    smaller = train_ranks(TEXTS, VOCAB - 10)
    assert smaller == {token: rank for token, rank in RANKS.items() if rank < VOCAB - 11}


def test_ids_are_those_of_the_trainer() -> None:
    """tiktoken gives the ids that rustbpe, which found the merges, gives."""
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(TEXTS), VOCAB - 1, pattern=encodings.GPT2_PATTERN)
    for text in [*TEXTS, "Tabs\tand  spaces", "naïve 東京 🌍", "  \n\n x "]:
        assert encode(ENCODING, text).tolist() == trainer.encode(text)


@pytest.mark.parametrize("texts", [[], [""], ["ab"], ["abc"] * 1000])
def test_too_small_a_text_is_an_error_that_says_how_far_it_goes(texts: list[str]) -> None:
    """If the text does not hold enough merges, the message gives the vocabulary that it would hold."""
    with pytest.raises(DataError, match=r"merges for a vocabulary of 25\d only; lower tokenize.vocab_size \(now 280\)"):
        train_ranks(texts, VOCAB)


def test_a_written_ranks_file_reads_back(tmp_path: Path) -> None:
    """Reading undoes writing, and tiktoken's own form is a line per token: its bytes in base64, its rank."""
    write_ranks(RANKS, tmp_path / "ranks.tiktoken")
    lines = (tmp_path / "ranks.tiktoken").read_text().splitlines()
    assert read_ranks(tmp_path / "ranks.tiktoken") == RANKS
    assert lines == [f"{base64.b64encode(token).decode()} {rank}" for token, rank in RANKS.items()]
    assert fingerprint(encodings.load_encoding(tmp_path / "ranks.tiktoken")) == fingerprint(ENCODING)


def test_the_fingerprint_tells_vocabularies_apart() -> None:
    """Two tokens that change places make another vocabulary."""
    tokens = list(RANKS)
    swapped = dict(RANKS) | {tokens[-1]: RANKS[tokens[-2]], tokens[-2]: RANKS[tokens[-1]]}
    assert fingerprint(encoding_of(swapped)) != fingerprint(ENCODING)


BYTE_LINES = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (3, "Ag==", "expected `base64-token rank`"),
        (3, "Ag== 2 2", "expected `base64-token rank`"),
        (3, "?? 2", "expected `base64-token rank`"),
        (3, "Ag== two", "expected `base64-token rank`"),
        (3, "", "expected `base64-token rank`"),
        (3, "Ag== 7", "ranks must count 0, 1, 2, … and no token stand twice"),
        (3, "AQ== 2", "ranks must count 0, 1, 2, … and no token stand twice"),
        (256, "AAA= 255", "byte 255 has no token"),
    ],
)
def test_a_wrong_ranks_file_is_refused_at_its_line(tmp_path: Path, line: int, text: str, said: str) -> None:
    """The first line that is not a token and its rank, or is out of order, is named; so is a byte without a token."""
    lines = [*BYTE_LINES]
    lines[line - 1] = text
    (tmp_path / "ranks").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigurationError) as caught:
        read_ranks(tmp_path / "ranks")
    assert said in str(caught.value)
    assert ("line 3" in str(caught.value)) == (line == 3)


def test_a_ranks_file_that_is_not_there_names_the_key(tmp_path: Path) -> None:
    """A wrong path is a wrong setting, and the message says which."""
    with pytest.raises(ConfigurationError, match=r"ranks: cannot be read \(No such file.*tokenize\.ranks names it"):
        read_ranks(tmp_path / "ranks")


def test_gpt2s_vocabulary_is_read_from_its_own_files(gpt2: tiktoken.Encoding) -> None:
    """vocab.bpe, with encoder.json beside it, gives 50,257 entries, the last of them <|endoftext|>."""
    assert (gpt2.n_vocab, gpt2.eot_token, gpt2.decode([50256])) == (50_257, 50_256, END_OF_TEXT)


def test_gpt2s_reference_cases(gpt2: tiktoken.Encoding) -> None:
    """The seven cases that others test GPT-2's tokenizer with come out the same."""
    cases = json.loads((GPT2 / "reference-ids.json").read_text(encoding="utf-8"))["cases"]
    assert len(cases) == 7
    assert [[text, ids] for text, ids in ((t, encode(gpt2, t).tolist()) for t, _ in cases)] == cases


def test_r50k_test_plans(gpt2: tiktoken.Encoding) -> None:
    """The 64 published encodings of r50k_base, which is GPT-2's vocabulary under its other name, come out the same."""
    plans = (SHARED / "tiktoken-ranks" / "TestPlans.txt").read_text(encoding="utf-8")
    cases = []
    for plan in plans.replace("\r\n", "\n").split("EncodingName: ")[1:]:
        name, rest = plan.split("\nSample: ", 1)
        text, ids = rest.split("\nEncoded: ", 1)
        if name == "r50k_base":
            cases.append((text, ast.literal_eval(ids.strip())))
    assert len(cases) == 64
    assert [encode(gpt2, text).tolist() for text, _ in cases] == [ids for _, ids in cases]


def test_tiktoken_is_asked_here_alone() -> None:
    """Nothing else in pipeline/ calls tiktoken's own encode_ordinary, whose panic no handler of errors sees."""
    sources = (Path(__file__).parents[2] / "pipeline").rglob("*.py")
    assert [file.name for file in sources if ".encode_ordinary" in file.read_text(encoding="utf-8")] == []


def test_the_verdict(gpt2: tiktoken.Encoding) -> None:
    """The Verdict has 20,479 characters and 5,145 tokens, and its windows are shifted by one token."""
    text = (SHARED / "the-verdict" / "the-verdict.txt").read_text(encoding="utf-8")
    ids = encode(gpt2, text).tolist()
    assert (len(text), len(ids), gpt2.decode(ids)) == (20_479, 5_145, text)
    batch = batch_of([np.array(ids[at : at + 5]) for at in range(0, len(ids) - 4, 4)], None)
    assert (batch.ids_BT[0].tolist(), batch.targets[0].tolist()) == ([40, 367, 2885, 1464], [367, 2885, 1464, 1807])
    assert batch.ids_BT.flatten().tolist() == ids[: batch.ids_BT.numel()]


def test_merges_without_their_ids_name_the_file_that_is_missing(tmp_path: Path) -> None:
    """vocab.bpe holds merges only: without encoder.json beside it the ids are unknown, and that is said."""
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nh e\n")
    with pytest.raises(ConfigurationError, match=r"encoder\.json: cannot be read"):
        read_ranks(tmp_path / "vocab.bpe")


@pytest.mark.parametrize(
    ("merges", "ids", "said"),
    [
        ("#version: 0.2\nh\n", None, r"vocab\.bpe, line 2: expected two tokens"),
        ("#version: 0.2\nh ☃\n", None, r"vocab\.bpe, line 2: "),
        ("#version: 0.2\nh e\n", "{", r"encoder\.json: "),
        ("#version: 0.2\nh e\n", '{"he": 3}', r"encoder\.json: "),
    ],
)
def test_wrong_gpt2_files_are_refused(tmp_path: Path, merges: str, ids: str | None, said: str) -> None:
    """A merge that is no pair of spelled tokens, or ids that do not belong to the merges, name their file."""
    (tmp_path / "vocab.bpe").write_text(merges)
    (tmp_path / "encoder.json").write_text(ids or "{}")
    with pytest.raises(ConfigurationError, match=said):
        read_ranks(tmp_path / "vocab.bpe")


@pytest.mark.parametrize(("name", "pattern"), [("cl100k", "cl100k"), ("gpt2", "gpt2")])
def test_the_pattern_stands_beside_the_ranks(tmp_path: Path, name: str, pattern: encodings.Pattern) -> None:
    """Written with a pattern, a ranks file is read with it, and the same ranks give other ids with another."""
    write_ranks(RANKS, tmp_path / "own.tiktoken", pattern)
    assert encodings.load_encoding(tmp_path / "own.tiktoken")._pat_str == encodings.PATTERNS[pattern]
    assert (tmp_path / "own.pattern").read_text() == f"{name}\n"


def test_published_ranks_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ranks file with a known sha256 needs no word about its pattern; an unknown one does, or is refused."""
    path = tmp_path / "own.tiktoken"
    write_ranks(RANKS, path)
    (tmp_path / "own.pattern").unlink()
    with pytest.raises(ConfigurationError, match=r"set tokenize\.pattern to gpt2, cl100k, qwen2, o200k"):
        encodings.load_encoding(path)
    monkeypatch.setitem(encodings.PUBLISHED, hashlib.sha256(path.read_bytes()).hexdigest(), "cl100k")
    assert encodings.pattern_of(path) == "cl100k"


def test_an_unknown_pattern_is_refused(tmp_path: Path) -> None:
    """What stands beside the ranks must be one of the patterns."""
    write_ranks(RANKS, tmp_path / "own.tiktoken")
    (tmp_path / "own.pattern").write_text("gpt9\n")
    with pytest.raises(ConfigurationError, match=r"own\.pattern: 'gpt9' is no pattern; known: gpt2, cl100k, qwen2"):
        encodings.load_encoding(tmp_path / "own.tiktoken")
