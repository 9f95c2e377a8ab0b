"""A model in fewer bits says nearly the same, whatever it is batched with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.generation import generate
from model.gpt import GPT, GPTConfig, KeyValueCache
from model.inference import WEIGHTS, for_inference

SMALL: dict[str, Any] = {"vocab_size": 67, "context_length": 96, "n_layers": 2, "n_heads": 4, "d_model": 64}
SHAPES = {
    "gpt2": GPTConfig(
        **SMALL, norm="layernorm", positions="learned", mlp="gelu", qkv_bias=True, linear_bias=True, tied_head=True
    ),
    "qwen3": GPTConfig(**SMALL, n_kv_heads=2, qk_norm=True, tied_head=False),
}
TOLERANCE = {"float32": 1e-6, "bfloat16": 0.02, "int8": 0.04}
"""Root mean square error of the logits, as a share of their deviation."""


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> GPT:
    """A small model, every weight of it random."""
    torch.manual_seed(4)
    model = GPT(SHAPES[request.param]).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.1)
    return model


def lean(model: GPT, weights: Any) -> GPT:
    """The model in fewer bits, where this machine can."""
    try:
        return for_inference(model, weights)
    except ValueError as error:
        if "VNNI" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("weights", WEIGHTS)
@torch.inference_mode()
def test_logits_stay_close(model: GPT, weights: Any) -> None:
    """Read at once, or in two parts through the cache with padding on the left, logits are those of float32, nearly."""
    small = lean(model, weights)
    ids = torch.randint(0, 67, (3, 80))
    exact = model.logits(model(ids))
    assert (small.logits(small(ids)) - exact).square().mean().sqrt() < TOLERANCE[weights] * exact.std()
    padded = torch.cat([torch.zeros(3, 7, dtype=torch.long), ids], 1)
    padding = torch.full((3,), 7)
    cache = KeyValueCache(small.config, 3, 96, small.token_embedding.weight)
    hidden = torch.cat([small(padded[:, :50], cache, padding), small(padded[:, 50:], cache, padding)], 1)
    assert (small.logits(hidden)[:, 7:] - exact).square().mean().sqrt() < TOLERANCE[weights] * exact.std()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_row_does_not_depend_on_its_batch(model: GPT, weights: Any) -> None:
    """Each token is rounded by itself, so a neighbour with large activations changes nothing."""
    small = lean(model, weights)
    prompts = [[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8]]
    together = generate(small, prompts, max_new_tokens=70, temperature=1.0, seed=3)
    assert together == [generate(small, [prompt], max_new_tokens=70, temperature=1.0, seed=3)[0] for prompt in prompts]


def test_the_model_itself_is_left_alone(model: GPT) -> None:
    """The copy takes nothing from the model, which may go on learning."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lean(model, "bfloat16")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="weights is 'int3', but must be one of float32, bfloat16, int8"):
        for_inference(model, "int3")  # type: ignore[arg-type]
