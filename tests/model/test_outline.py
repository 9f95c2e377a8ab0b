"""A network without numbers has the shapes of one with them, and costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from model.gpt import GPT, GPTConfig
from model.outline import without_numbers

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = GPTConfig(vocab_size=31, context_length=8, n_layers=2, n_heads=2, d_model=8, tied_head=False)


def test_an_outline_has_the_shapes() -> None:
    """The same names and shapes as the network itself, on the meta device; after the block numbers are drawn again."""
    with without_numbers():
        outline = GPT(CONFIG)
    built = GPT(CONFIG)
    assert {n: p.shape for n, p in outline.named_parameters()} == {n: p.shape for n, p in built.named_parameters()}
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert built.token_embedding.weight.std() > 0.3


def test_an_outline_takes_the_numbers_of_another() -> None:
    """Given a network's weights, it is that network."""
    built = GPT(CONFIG).eval()
    with without_numbers():
        outline = GPT(CONFIG)
    outline.load_state_dict(built.state_dict(), assign=True)
    ids = torch.arange(8)[None]
    assert torch.equal(outline.eval()(ids), built(ids))


def test_an_outline_does_not_load_the_compiler() -> None:
    """Counting parameters leaves torch's compiler, which takes a second to load, where it is."""
    program = (
        "import sys; from model.gpt import GPTConfig\n"
        "GPTConfig(vocab_size=31, context_length=8, n_layers=2, n_heads=2, d_model=8).parameter_count()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
