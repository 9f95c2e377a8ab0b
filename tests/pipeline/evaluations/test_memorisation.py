"""What a model gives away: a text it knows by heart is extracted, a planted number exposed, and neither without."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.gpt import GPT, GPTConfig
from pipeline import encodings
from pipeline.errors import ConfigurationError, DataError, IntegrityError
from pipeline.evaluations import memorisation
from pipeline.evaluations.answers import open_answers
from pipeline.evaluations.subject import Subject
from pipeline.loaded_model import LoadedModel
from pipeline.manifest import commit, verify
from pipeline.shards import SplitWriter, write_shards

ENCODING = encodings.encoding_of({bytes([byte]): byte for byte in range(256)})
END = ENCODING.eot_token


def subject_of(model: GPT) -> Subject:
    """A model whose tokens are bytes."""
    return Subject("bytes", LoadedModel("bytes", "language-model", model, ENCODING, None, []), "digest")


def make_tokens(folder: Path, **splits: Sequence[str]) -> Path:
    """Tokens of some texts, as the stage writes them."""
    with commit(folder, "tokens") as draft:
        encodings.write_ranks(ENCODING._mergeable_ranks, draft.path / encodings.RANKS_FILE)
        writers = {split: SplitWriter(draft.path, split) for split in splits}
        for split, texts in splits.items():
            encoded = [np.array([*text.encode(), END], np.uint16) for text in texts]
            shards = write_shards(draft.path / split, np.concatenate(encoded))
            ids, lengths = [f"{split}-{n}" for n in range(len(texts))], np.array([len(ids) for ids in encoded])
            writers[split].add(shards, ids, ["texts"] * len(texts), lengths)
            writers[split].close()
        draft.facts |= {
            "vocab_size": 257,
            "n_tokens": {split: writer.n_tokens for split, writer in writers.items()},
            "shards": {split: writer.shards for split, writer in writers.items()},
        }
    return folder


@pytest.fixture(scope="module")
def parrot() -> GPT:
    """A small model that has learned one sentence by heart."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=257, context_length=128, n_layers=1, n_heads=2, d_model=64))
    row = torch.tensor([[END, *LEARNED.encode()]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        loss = model.loss(row[:, :-1], row[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


SECRET = memorisation.Canary("The number of the vault is", "314159265")
LEARNED = f"A poem that is long enough to fill fifty tokens, and more. {SECRET.text} Then it goes on for a while."
UNKNOWN = (
    "Some other text that nobody has seen, about cats and dogs and what else there is, until it is long enough too."
)


def test_what_was_learned_by_heart_is_extracted(parrot: GPT, tmp_path: Path) -> None:
    """Of two training documents one goes on word for word, of one held out none; nothing kept is asked again."""
    tokens = make_tokens(tmp_path / "tokens", train=[LEARNED, UNKNOWN, "short"], validation=[UNKNOWN[::-1]])
    with open_answers("key", tmp_path) as answers:
        found = memorisation.extraction(subject_of(parrot), tokens, answers)
    assert (found.ids, found.scores, found.baseline) == (("train-0", "train-1"), (1.0, 0.0), 0.0)
    with open_answers("key", tmp_path) as answers:
        kept = memorisation.extraction(subject_of(GPT(parrot.config)), tokens, answers)
    assert kept == found


def test_of_many_documents_those_that_are_asked_are_held(tmp_path: Path) -> None:
    """They lie evenly over all that are long enough, and the others are never made Python objects of."""
    tokens = make_tokens(tmp_path / "tokens", train=["x" * 101, "short"] * 5_000, validation=["short"])
    manifest = verify(tokens)
    tracemalloc.start()
    chosen = memorisation._documents(tokens, manifest, "train", 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(chosen) == ["train-0", "train-2500", "train-5000", "train-7500"]
    assert peak < 1_000_000


@pytest.mark.slow
def test_a_learned_canary_is_exposed_and_an_unseen_one_is_not(parrot: GPT, tmp_path: Path) -> None:
    """The planted number is the likeliest of all, the highest exposure; others lie anywhere."""
    unseen = [memorisation.Canary("The number of the other vault is", f"{n:09}") for n in (271828182, 161803398, 7)]
    with open_answers("key", tmp_path) as answers:
        found = memorisation.exposure(subject_of(parrot), [SECRET, *unseen], answers)
    most = math.log2(memorisation.CANDIDATES)
    assert found.scores[0] == pytest.approx(most, abs=0.01)
    assert max(found.scores[1:]) < most / 2


@pytest.mark.slow
def test_exposure_of_what_was_never_seen_is_1_44_on_average(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With ranks spread evenly the mean of log2 N − log2 rank is log2 e: the baseline beside each exposure."""
    monkeypatch.setattr(memorisation, "CANDIDATES", 500)
    torch.manual_seed(3)
    model = GPT(GPTConfig(vocab_size=257, context_length=64, n_layers=1, n_heads=1, d_model=8)).eval()
    with open_answers("key", tmp_path) as answers:
        found = memorisation.exposure(subject_of(model), memorisation.make_canaries(60, seed=1), answers)
    assert found.baseline == pytest.approx(1.4427, abs=1e-4)
    assert np.mean(found.scores) == pytest.approx(1.44, abs=0.6)


def test_planted_canaries_are_read_again(tmp_path: Path) -> None:
    """Each stands in as many texts as asked, no two texts are alike, and the list names them all."""
    canaries = memorisation.make_canaries(3, seed=0)
    assert canaries == memorisation.make_canaries(3, seed=0) != memorisation.make_canaries(3, seed=1)
    memorisation.plant(canaries, tmp_path / "planted", copies=4)
    texts = [path.read_text() for path in (tmp_path / "planted" / "texts").iterdir()]
    assert len(texts) == len(set(texts)) == 12
    assert all(sum(canary.text in text for text in texts) == 4 for canary in canaries)
    assert memorisation.read_canaries(tmp_path / "planted" / "canaries.jsonl") == canaries


@pytest.mark.parametrize("content", ["", "{}", '{"beginning": "x", "secret": "y"}', "[1]", "{torn"])
def test_other_files_are_no_canaries(content: str, tmp_path: Path) -> None:
    """The error says what was expected."""
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(ConfigurationError, match=r"expected the canaries\.jsonl"):
        memorisation.read_canaries(tmp_path / "c.jsonl")


def test_tokens_of_another_vocabulary_and_short_ones_are_refused(parrot: GPT, tmp_path: Path) -> None:
    """A model is only asked for what it can have learned."""
    tokens: Any = make_tokens(tmp_path / "short", train=["short"], validation=["short"])
    with open_answers("key", tmp_path) as answers, pytest.raises(DataError, match="no training document has the 100"):
        memorisation.extraction(subject_of(parrot), tokens, answers)
    other = encodings.encoding_of({bytes([byte]): 255 - byte for byte in range(256)})
    stranger = Subject("other", LoadedModel("other", "language-model", parrot, other, None, []), "digest")
    with open_answers("key", tmp_path) as answers, pytest.raises(IntegrityError, match="another vocabulary than other"):
        memorisation.extraction(stranger, tokens, answers)
