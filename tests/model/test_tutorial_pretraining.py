"""The tutorial's pretraining, shortened: a short story, its windows, and a model that comes to know it by heart.

The tutorial is Raschka's "Build a Large Language Model (From Scratch)", chapter 5; whole in benchmarks/tutorial.py.
"""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import tiktoken
import torch

from model.batches import Batch, batch_of
from model.generation import generate
from model.gpt import GPT, GPTConfig
from model.presets import preset
from model.training import TrainingConfig, train
from pipeline.encodings import encoding_of, load_encoding, train_ranks

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
STORY = SHARED / "the-verdict" / "the-verdict.txt"
VOCABULARY = SHARED / "gpt2-tokenizer" / "vocab.bpe"

needs_the_story = pytest.mark.skipif(
    not (STORY.exists() and VOCABULARY.exists()), reason="../shared/data is not beside the checkout"
)


@pytest.fixture(scope="module")
def encoding() -> tiktoken.Encoding:
    """GPT-2's vocabulary."""
    return load_encoding(VOCABULARY)


@pytest.fixture(scope="module")
def story() -> str:
    """20,479 characters."""
    return STORY.read_text(encoding="utf-8")


def windows(encoding: tiktoken.Encoding, text: str, length: int) -> Batch:
    """What of a text is read, and what is to be said, in windows that do not overlap."""
    ids = encoding.encode_ordinary(text)
    return batch_of([np.array(ids[at : at + length + 1]) for at in range(0, len(ids) - length, length)], None)


@needs_the_story
def test_the_story_is_nine_batches_to_learn_and_one_held_out(encoding: tiktoken.Encoding, story: str) -> None:
    """Nine tenths of its characters and the last one, in windows of 256 tokens, two of them a batch."""
    cut = int(0.9 * len(story))
    learned, held_out = (windows(encoding, part, 256) for part in (story[:cut], story[cut:]))
    assert (len(learned.ids_BT) // 2, len(held_out.ids_BT) // 2) == (9, 1)


@pytest.mark.slow
def test_gpt2s_shape_begins_near_a_guess() -> None:
    """With 163,009,536 parameters at random its loss is the tutorial's 10.99 to two tenths; a guess costs 10.82."""
    torch.manual_seed(123)
    model = GPT(preset("seed-124m"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 163_009_536
    ids, targets = torch.randint(0, 50_257, (2, 2, 256))
    with torch.no_grad():
        assert float(model.loss(ids, targets)) == pytest.approx(10.99, abs=0.2)


def test_a_small_model_knows_a_page_by_heart() -> None:
    """What it has read costs it less than 0.6 nats a token, what it has not more than 6; it recites.

    The page is of Python's own documentation, so that this is tried wherever the tests run.
    """
    page, other = topics["assignment"], topics["exceptions"]
    encoding = encoding_of(train_ranks([*topics.values()], 4096))
    learned, held_out = (windows(encoding, part, 64) for part in (page[:1500], other))
    torch.manual_seed(0)
    gpt2 = preset("seed-124m")
    small = {"context_length": 64, "n_layers": 2, "n_heads": 2, "d_model": 64}
    alike = {name: getattr(gpt2, name) for name in ("norm", "positions", "mlp", "linear_bias", "tied_head")}
    model = GPT(GPTConfig(vocab_size=4096, **alike, **small))
    config = TrainingConfig(steps=80, learning_rate=1e-2, warmup_steps=5, precision="float32")
    for _ in train(model, lambda position: learned, config):
        pass
    model.eval()
    with torch.no_grad():
        losses = [float(model.loss(part.ids_BT, part.targets)) for part in (learned, held_out)]
    assert losses[0] < 0.6 and losses[1] > 6
    [said] = generate(model, [learned.ids_BT[2, :8].tolist()], max_new_tokens=30)
    assert encoding.decode(said) in page
