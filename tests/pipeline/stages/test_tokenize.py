"""Tokenize turns every document into tokens once, on the side its text belongs to, and back again nothing is lost."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import encodings
from pipeline.documents import Document, part_files, read_records
from pipeline.errors import ConfigurationError, DataError, IntegrityError
from pipeline.shards import map_split, read_index
from pipeline.stages import tokenize
from pipeline.stages.tokenize import SPLITS, split_of

FRACTION = 0.2


def documents_of(project: Any) -> list[Document]:
    return list(read_records(project.path("documents/clean/documents.parquet"), Document))


def decoded(project: Any, split: str) -> list[str]:
    """The texts that a split's tokens spell, cut at <|endoftext|>."""
    facts = project.manifest("tokens").facts
    folder = project.path("tokens")
    encoding = encodings.load_encoding(folder / encodings.RANKS_FILE)
    tokens = map_split(folder, split, facts)
    ends = np.flatnonzero(tokens == encoding.eot_token)
    assert ends[-1] == len(tokens) - 1
    return [encoding.decode(part[part != encoding.eot_token].tolist()) for part in np.split(tokens, ends[:-1] + 1)]


def test_tokens_decode_to_exactly_the_documents(made: Any) -> None:
    """Training and validation tokens together spell every document once, in the corpus' order."""
    texts = [document.text for document in documents_of(made)]
    for split in SPLITS:
        assert decoded(made, split) == [text for text in texts if split_of(text, FRACTION) == split]


def test_the_index_finds_each_document(made: Any) -> None:
    """A document's id leads to its tokens, the end of text among them."""
    facts, documents = made.manifest("tokens").facts, {d.id: d.text for d in documents_of(made)}
    encoding = encodings.load_encoding(made.path("tokens") / encodings.RANKS_FILE)
    seen = []
    for split in SPLITS:
        tokens = map_split(made.path("tokens"), split, facts)
        for row in read_index(made.path("tokens"), split).to_pylist():
            ids = tokens[row["first_token"] : row["first_token"] + row["n_tokens"]].tolist()
            assert ids == [*encoding.encode_ordinary(documents[row["id"]]), encoding.eot_token]
            seen.append(row["id"])
    assert sorted(seen) == sorted(documents)


def test_the_manifest_counts_what_is_there(made: Any) -> None:
    """Documents, bytes and tokens of both splits add up to those of the corpus."""
    facts, documents = made.manifest("tokens").facts, documents_of(made)
    assert sum(facts["n_documents"].values()) == len(documents) == 40
    assert sum(facts["n_bytes"].values()) == sum(len(document.text.encode()) for document in documents)
    assert (facts["vocab_size"], facts["end_of_text"]) == (300, 299)
    assert made.manifest("tokens").inputs["documents"] == made.manifest("documents/clean").digest


def test_the_same_input_gives_the_same_artefact(made: Any) -> None:
    """Tokenizing again gives an equal digest, vocabulary included, though nothing is remembered."""
    before = made.manifest("tokens")
    made.forget()
    made.run("tokenize")
    assert made.manifest("tokens").digest == before.digest


def test_more_documents_move_none_to_the_other_side(made: Any) -> None:
    """A document's split depends on its text alone: a larger corpus keeps what was held out held out."""
    before = {split: set(decoded(made, split)) for split in SPLITS}
    for number in range(60):
        (made.root / "texts" / f"a-new-{number}.txt").write_text(f"A new text, the {number}th of its kind.")
    made.run("ingest")
    made.run("clean")
    made.vouch()
    made.run("tokenize")
    after = {split: set(decoded(made, split)) for split in SPLITS}
    assert all(before[split] < after[split] for split in SPLITS)


def test_a_split_gets_about_its_fraction() -> None:
    """Of a thousand texts, about a tenth is held out when a tenth is asked for."""
    held_out = sum(split_of(f"text {number}", 0.1) == "validation" for number in range(1000))
    assert 70 < held_out < 130


def test_special_tokens_in_a_document_are_its_text(made: Any) -> None:
    """A document that spells <|endoftext|> does not end there."""
    (made.root / "texts" / "odd.txt").write_text("before <|endoftext|> after")
    for stage in ("ingest", "clean"):
        made.run(stage)
    made.vouch()
    made.run("tokenize")
    assert "before <|endoftext|> after" in [text for split in SPLITS for text in decoded(made, split)]


def test_a_vocabulary_of_your_own_is_used_as_it_is(made: Any) -> None:
    """With `ranks` the file's vocabulary counts, whatever vocab_size says, and no other is trained."""
    ranks = encodings.train_ranks(["a rat, a bat, a cat"] * 5, 260)
    encodings.write_ranks(ranks, made.root / "own.tiktoken")
    made.run("tokenize", ranks=str(made.root / "own.tiktoken"))
    facts = made.manifest("tokens").facts
    assert (facts["vocab_size"], facts["end_of_text"]) == (260, 259)
    assert encodings.read_ranks(made.path("tokens") / encodings.RANKS_FILE) == ranks
    assert sorted(text for split in SPLITS for text in decoded(made, split)) == sorted(
        d.text for d in documents_of(made)
    )


def test_training_bytes_bounds_what_trains_the_vocabulary(made: Any) -> None:
    """Where there is more text than training_bytes, a sample by hash trains the vocabulary, in the corpus' order."""
    texts = [d.text for d in documents_of(made) if split_of(d.text, FRACTION) == "train"]
    params = tokenize.Params(**made.manifest("tokens").params)
    source = made.path("documents/clean/documents.parquet")
    half = sum(len(text.encode()) for text in texts) // 2
    sample = list(tokenize._sample(replace(params, training_bytes=half), source))
    assert sample == [text for text in texts if text in sample]
    assert half / 2 < sum(len(text.encode()) for text in sample) <= half
    assert sample != texts[: len(sample)]
    assert list(tokenize._sample(params, source)) == texts
    made.run("tokenize", vocab_size=262, training_bytes=half)
    assert encodings.read_ranks(made.path("tokens") / encodings.RANKS_FILE) == encodings.train_ranks(sample, 262)


def test_a_vocabulary_of_another_pattern_keeps_it(made: Any) -> None:
    """`pattern` decides how text is split, and travels with the tokens and into the export."""
    made.run("tokenize", pattern="cl100k")
    file = made.path("tokens") / encodings.RANKS_FILE
    assert (encodings.pattern_of(file), decoded(made, "train")[0][:4]) == ("cl100k", "The ")
    gpt2 = encodings.encoding_of(encodings.read_ranks(file))
    assert encodings.fingerprint(encodings.load_encoding(file)) != encodings.fingerprint(gpt2)


def test_more_workers_change_nothing(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes write the very manifest that one does, over several parts and shards."""
    in_small_parts(made, monkeypatch)
    digests = []
    monkeypatch.setattr("pipeline.stages.tokenize.BYTES_PER_WORKER", 1)
    for count in (1, 2):
        made.compute = replace(made.compute, workers=count)
        made.forget()
        made.run("tokenize")
        digests.append(made.manifest("tokens").digest)
    assert len(part_files(made.path("documents/clean/documents.parquet"))) > 4
    assert len(made.manifest("tokens").facts["shards"]["train"]) > 4
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_ray_cluster_changes_nothing(made: Any, monkeypatch: pytest.MonkeyPatch, on_a_ray_cluster: Any) -> None:
    """A Ray cluster of two nodes on this machine writes the very manifest that one process does."""
    in_small_parts(made, monkeypatch)
    made.run("tokenize")
    alone = made.manifest("tokens").digest
    made.compute = on_a_ray_cluster(made.compute)
    made.forget()
    made.run("tokenize")
    assert made.manifest("tokens").digest == alone


def test_a_changed_document_changes_the_shards_near_it(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after them shards have the bytes that they had, so that DVC keeps them once."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 2000)

    def shards() -> dict[str, str]:
        for stage in ("ingest", "clean"):
            made.run(stage)
        made.vouch()
        made.run("tokenize", ranks=str(made.root / "own.tiktoken"), parts_per_shard=3)
        files = made.manifest("tokens").files
        return {entry.sha256: name for name, entry in files.items() if name.startswith("train-")}

    encodings.write_ranks(encodings.train_ranks(["a rat, a bat, a cat"] * 5, 260), made.root / "own.tiktoken")
    for number in range(200):
        (made.root / "texts" / f"page-{number:03}.txt").write_text(f"Page {number} is of the days. " * (number % 7 + 1))
    before = shards()
    (made.root / "texts" / "page-100.txt").write_text("This page was written anew.")
    after = shards()
    assert len(before) > 10
    assert 0 < len(after.keys() - before.keys()) <= 3


def in_small_parts(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and clean again, a few documents to a part, so that there is something to share out."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 2000)
    project.run("ingest")
    project.run("clean")
    project.vouch()
    monkeypatch.undo()


def test_without_gigatoken_the_tokens_are_the_same(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken alone writes the same artefact, and the run says that it is slower."""
    before = made.manifest("tokens").digest
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    said = made.run("tokenize").notes
    assert made.manifest("tokens").digest == before
    assert "gigatoken is not installed, so tiktoken does the work, more slowly" in said


def test_the_documented_way_to_read_shards(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/tokens.md, with plain pyarrow and numpy, give the tokens of the first training document."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "tokens.md").read_text(encoding="utf-8")
    monkeypatch.chdir(made.root)
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    encoding = encodings.load_encoding(made.path("tokens") / encodings.RANKS_FILE)
    *text, end = names["document"].tolist()
    assert (encoding.decode(text), end) == (decoded(made, "train")[0], encoding.eot_token)


def test_a_flipped_bit_in_a_shard_is_named(made: Any) -> None:
    """Training on a shard of which one bit flipped ends with 77, and the message names the shard."""
    shard = made.path("tokens/train-00000.parquet")
    altered = bytearray(shard.read_bytes())
    altered[5000] ^= 4
    shard.write_bytes(altered)
    with pytest.raises(IntegrityError, match=r"train-00000\.parquet: its bytes are not those of the manifest"):
        made.run("pretrain")


def test_an_edited_vocabulary_is_refused(made: Any) -> None:
    """Ranks or a pattern that changed after the tokens were made end the next stage with 77, naming the file."""
    for name, edited in (("tokenizer.tiktoken", b"IQ== 0\n"), ("tokenizer.pattern", b"cl100k\n")):
        file = made.path("tokens") / name
        before = file.read_bytes()
        file.write_bytes(edited)
        with pytest.raises(IntegrityError, match=f"{name}: its bytes are not those of the manifest"):
            made.run("pretrain")
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"vocab_size": 5000}, DataError, "merges for a vocabulary of .* only; lower tokenize.vocab_size"),
        ({"validation_fraction": 0.000001}, DataError, "no document fell into the validation split of 40"),
        ({"validation_fraction": 0.999999}, DataError, "merges for a vocabulary of 257 only"),
        ({"ranks": "nowhere.tiktoken"}, ConfigurationError, "nowhere.tiktoken: cannot be read"),
        ({"ranks": "strange.tiktoken"}, ConfigurationError, "by which pattern text is split; set tokenize.pattern to"),
        ({"training_bytes": 0}, ConfigurationError, "training_bytes must be at least 1"),
        ({"vocab_size": 257}, ConfigurationError, "vocab_size must be more than 257: every byte needs a token"),
        ({"validation_fraction": 0.0}, ConfigurationError, "validation_fraction must lie between 0 and 1"),
        ({"parts_per_shard": 0}, ConfigurationError, "parts_per_shard must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_and_the_earlier_tokens_stay(
    made: Any, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    """A wrong setting or too little text is an error of its kind, and what was there before is still there."""
    before = made.manifest("tokens")
    encodings.write_ranks(encodings.read_ranks(made.path("tokens/tokenizer.tiktoken")), made.root / "strange.tiktoken")
    (made.root / "strange.pattern").unlink()
    with pytest.raises(error, match=said):
        made.run("tokenize", **changes)
    assert made.manifest("tokens") == before


def test_without_a_verdict_nothing_is_tokenized(made: Any) -> None:
    """The artefact of validate exists only if every expectation held; without it there is no training."""
    (made.path("reports/validation") / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"reports/validation/manifest\.json: not there"):
        made.run("tokenize")


def test_altered_documents_are_refused(made: Any) -> None:
    """A flipped byte in the documents is found before anything is read."""
    path = made.path("documents/clean/documents.parquet/000000.parquet")
    altered = bytearray(path.read_bytes())
    altered[100] ^= 1
    path.write_bytes(altered)
    with pytest.raises(IntegrityError, match="its bytes are not those of the manifest"):
        made.run("tokenize")
