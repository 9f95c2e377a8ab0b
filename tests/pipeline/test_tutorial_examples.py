"""The examples of the tutorial, read by our own code, give the counts and shapes that it prints.

The tutorial is Raschka's "Build a Large Language Model (From Scratch)", chapters 6 and 7.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from model.batches import Example, Examples, collate
from model.conversations import ALPACA, encode_labelled, encode_pair
from model.gpt import GPT, IGNORE, GPTConfig
from pipeline.documents import Message
from pipeline.encodings import load_encoding
from pipeline.task_examples import balanced

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
INSTRUCTIONS = SHARED / "rasbt-ch07" / "ch07" / "01_main-chapter-code" / "instruction-data.json"
MESSAGES = SHARED / "sms-spam" / "sms.tsv"
VOCABULARY = SHARED / "gpt2-tokenizer" / "vocab.bpe"

pytestmark = pytest.mark.skipif(
    not (INSTRUCTIONS.exists() and MESSAGES.exists() and VOCABULARY.exists()),
    reason="../shared/data is not beside the checkout",
)


@pytest.fixture(scope="module")
def pairs() -> list[Example]:
    """The 1,100 instructions with GPT-2's vocabulary and the Alpaca prompt."""
    encoding = load_encoding(VOCABULARY)
    rows = json.loads(INSTRUCTIONS.read_text(encoding="utf-8"))
    return [
        encode_pair(
            encoding.encode_ordinary, ALPACA, row["instruction"], row["input"], row["output"], end_id=encoding.eot_token
        )
        for row in rows
        if row["output"].strip()
    ]


def test_the_instructions_are_split_85_5_10(pairs: list[Example]) -> None:
    """Of 1,100 pairs 935 are learned, 110 tested and the 55 left looked at while learning."""
    train, test = int(len(pairs) * 0.85), int(len(pairs) * 0.1)
    assert (len(pairs), train, len(pairs) - train - test, test) == (1100, 935, 55, 110)
    assert len(Examples(pairs[:train], 8, 123, 50256, drop_last=True)) == 116


def test_the_first_batch_is_8_by_61(pairs: list[Example]) -> None:
    """In the tutorial's order (seed 123) the first batches are 61, 76 and 73 wide; each row learns one end-of-text."""
    torch.manual_seed(123)
    loader = DataLoader(
        pairs[:935],  # type: ignore[arg-type]
        batch_size=8,
        shuffle=True,
        drop_last=True,
        collate_fn=lambda rows: collate(rows, 50256),
    )
    batches = [batch for batch, _ in zip(loader, range(3), strict=False)]
    assert [tuple(batch.ids_BT.shape) for batch in batches] == [(8, 61), (8, 76), (8, 73)]
    for batch in batches:
        assert batch.lengths_B is not None
        assert (batch.targets == 50256).sum(1).tolist() == [1] * 8
        for targets_T, length in zip(batch.targets, batch.lengths_B, strict=True):
            assert targets_T[length - 1] == 50256
            assert bool((targets_T[length:] == IGNORE).all())


def test_ignored_targets_leave_the_loss_unchanged(pairs: list[Example]) -> None:
    """A batch's loss is that of its pairs one by one, whatever padding the longest asks for."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50257, context_length=256, n_layers=1, n_heads=2, d_model=8)).eval()
    with torch.no_grad():
        together = collate(pairs[:8], 50256)
        alone = [collate([pair], 50256) for pair in pairs[:8]]
        total = sum(model.loss(batch.ids_BT, batch.targets, reduction="sum") for batch in alone)
        scored = sum(batch.scored() for batch in alone)
        assert scored == together.scored() < together.targets.numel()
        torch.testing.assert_close(model.loss(together.ids_BT, together.targets), total / scored)


def test_the_balanced_messages_make_130_19_and_38_batches() -> None:
    """Of 5,574 messages 747 are spam; as many of either, split 70/10/20, are 130, 19 and 38 batches of 8."""
    lines = MESSAGES.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t", 1) for line in lines]
    messages = [Message.of(dataset="sms", split="train", label=label, text=text) for label, text in rows]
    assert Counter(message.label for message in messages) == {"ham": 4827, "spam": 747}
    kept = balanced(messages, 123)
    assert Counter(message.label for message in kept) == {"ham": 747, "spam": 747}
    encode = load_encoding(VOCABULARY).encode_ordinary
    examples = [encode_labelled(encode, m.text, m.label == "spam", end_id=50256, context_length=120) for m in kept]
    train, validation = int(len(kept) * 0.7), int(len(kept) * 0.1)
    parts = examples[:train], examples[train : train + validation], examples[train + validation :]
    sizes = [len(Examples(part, 8, 123, 50256, drop_last=part is parts[0])) for part in parts]
    assert sizes == [130, 19, 38]
