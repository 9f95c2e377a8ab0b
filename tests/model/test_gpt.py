"""The decoder: laws that hold for every shape, and the tutorial's parameter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from model import softmax_attention
from model.gpt import GPT, IGNORE, GPTConfig, KeyValueCache, tanh_gelu
from model.presets import PRESETS, preset
from model.softmax_attention import attend, attention_mask

SMALL: dict[str, Any] = {"vocab_size": 31, "context_length": 24, "n_layers": 2, "n_heads": 4, "d_model": 32}
SHAPES = {
    "llama": GPTConfig(**SMALL, n_kv_heads=2),
    "gpt2": GPTConfig(
        **SMALL, norm="layernorm", positions="learned", mlp="gelu", qkv_bias=True, linear_bias=True, tied_head=False
    ),
    "qwen3": GPTConfig(**SMALL, n_kv_heads=1, qk_norm=True, head_dim=16),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def random_model(config: GPTConfig) -> GPT:
    """A model with weights large enough that attention is far from uniform."""
    torch.manual_seed(1)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@every_shape
@torch.no_grad()
def test_a_longer_text_does_not_change_earlier_logits(shape: str) -> None:
    """Attention is causal: the logits of the first 9 tokens are the same with 15 more behind them."""
    model = random_model(SHAPES[shape])
    ids = torch.randint(0, 31, (2, 24))
    torch.testing.assert_close(model(ids)[:, :9], model(ids[:, :9]), rtol=1e-5, atol=1e-5)


@every_shape
@torch.no_grad()
def test_every_earlier_token_matters(shape: str) -> None:
    """Changing the first token changes the last one's hidden state."""
    model = random_model(SHAPES[shape])
    ids = torch.randint(0, 30, (1, 24))
    other = ids.clone()
    other[0, 0] = 30
    assert (model(ids)[0, -1] - model(other)[0, -1]).abs().max() > 1e-3


@every_shape
@torch.no_grad()
def test_reading_through_a_cache_gives_what_reading_at_once_gives(shape: str) -> None:
    """Five tokens, then one, then the rest: the same hidden states as all at once."""
    model = random_model(SHAPES[shape])
    ids = torch.randint(0, 31, (3, 24))
    cache = KeyValueCache(model.config, 3, 24, model.token_embedding.weight)
    parts = [model(part, cache) for part in ids.split([5, 1, 18], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=1e-5, atol=1e-5)


@every_shape
@torch.no_grad()
def test_left_padding_changes_nothing(shape: str) -> None:
    """A row padded on the left, whatever with, has the hidden states of the bare row, with a cache as well."""
    model = random_model(SHAPES[shape])
    ids = torch.randint(0, 31, (1, 10))
    padded = torch.cat([torch.tensor([[7, 7, 9]]), ids], dim=1)
    rows, padding = torch.cat([padded, padded.roll(1, 1)]), torch.tensor([3, 0])
    bare = model(ids)[0]
    torch.testing.assert_close(model(rows, padding_B=padding)[0, 3:], bare, rtol=1e-5, atol=1e-5)
    cache = KeyValueCache(model.config, 2, 13, model.token_embedding.weight)
    parts = [model(part, cache, padding) for part in rows.split([8, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1)[0, 3:], bare, rtol=1e-5, atol=1e-5)


@every_shape
@torch.no_grad()
def test_blockwise_and_fused_attention_agree(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways to attend, chosen by length and device, give the same hidden states."""
    model = random_model(SHAPES[shape])
    ids, padding = torch.randint(0, 31, (2, 24)), torch.tensor([0, 4])
    monkeypatch.setattr(softmax_attention, "BLOCKWISE_LIMIT", 1024)
    plain, plain_padded = model(ids), model(ids, padding_B=padding)
    monkeypatch.setattr(softmax_attention, "BLOCKWISE_LIMIT", 0)
    torch.testing.assert_close(model(ids), plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(ids, padding_B=padding)[1, 4:], plain_padded[1, 4:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_has_the_same_bits_with_and_without_a_gradient(dtype: torch.dtype) -> None:
    """Over a cache too, and neither queries nor keys are touched."""
    q, k, v = (torch.randn(2, heads, n, 8, dtype=dtype) for heads, n in ((4, 5), (2, 70), (2, 70)))
    mask = attention_mask(5, 65, 70, torch.tensor([0, 3]), None, q)
    before = k.clone()
    plain = attend(q, k, v, mask, 0.0)
    assert torch.equal(plain, attend(q.clone().requires_grad_(), k, v, mask, 0.0))
    assert torch.equal(plain, attend(q, k, v, mask, 0.0))
    assert torch.equal(k, before)


BLOCK_SHAPES = {  # rows, query heads, key heads, tokens, width of a head
    "one block": (2, 4, 4, 7, 8),
    "blocks, shared keys": (2, 6, 2, 150, 8),
    "one row": (1, 2, 1, 64, 16),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "documents"])
@pytest.mark.parametrize("shape", BLOCK_SHAPES)
def test_blockwise_attention_is_torchs_with_its_gradients(shape: str, packed: bool, compiled: bool) -> None:
    """In float64, over one block or several, shared keys or not, packed documents or not."""
    B, H, K, T, C = BLOCK_SHAPES[shape]
    torch.manual_seed(0)
    heads = [torch.randn(B, T, n, C, dtype=torch.float64).transpose(1, 2).requires_grad_() for n in (H, K, K)]
    documents = (torch.arange(T) * 3 // T).expand(B, T) if packed else None
    mask = attention_mask(T, 0, T, None, documents, heads[0])
    block = torch.compile(attend, backend="aot_eager", fullgraph=True) if compiled else attend

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=H != K)

    found = []
    for compute in (fused, lambda q, k, v: block(q, k, v, mask, 0.0)):
        result = compute(*heads)
        found.append((result.detach(), *torch.autograd.grad(result.sin().sum(), heads)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_compiler_gets_for_tanh_gelu_is_tanh_gelu(dtype: torch.dtype) -> None:
    """With its gradient, from one end of the numbers that matter to the other."""
    x = torch.linspace(-12, 12, 4001).to(dtype).requires_grad_()
    compiled = torch.compile(tanh_gelu, backend="aot_eager", fullgraph=True)
    expected = functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(compiled(x), expected)
    gradients = [torch.autograd.grad(y.sum(), x) for y in (compiled(x), expected)]
    torch.testing.assert_close(*gradients)


@every_shape
def test_the_loss_is_the_cross_entropy_of_the_logits(shape: str) -> None:
    """`loss` never holds all logits, yet equals torch's cross-entropy over them."""
    model = random_model(SHAPES[shape])
    ids, targets = torch.randint(0, 31, (2, 2, 24))
    expected = functional.cross_entropy(model.logits(model(ids)).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(ids, targets), expected)


def test_ignored_targets_leave_the_loss_unchanged() -> None:
    """Padding on the right with ignored targets gives the loss of the unpadded rows."""
    model = random_model(SHAPES["llama"])
    ids, targets = torch.randint(0, 31, (2, 2, 12))
    padded_ids = torch.cat([ids, torch.full((2, 5), 3)], dim=1)
    padded_targets = torch.cat([targets, torch.full((2, 5), IGNORE)], dim=1)
    torch.testing.assert_close(model.loss(padded_ids, padded_targets), model.loss(ids, targets))


@every_shape
@pytest.mark.parametrize("limit", [0, 1024], ids=["fused", "plain"])
@torch.no_grad()
def test_packed_documents_are_read_as_if_alone(shape: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three documents in one row, kept apart, have the hidden states that each has in a row of its own."""
    monkeypatch.setattr(softmax_attention, "BLOCKWISE_LIMIT", limit)
    network = random_model(SHAPES[shape])
    parts = torch.randint(0, 31, (2, 24)).split([5, 1, 18], dim=1)
    documents = torch.tensor([[0] * 5 + [1] + [2] * 18] * 2)
    alone = torch.cat([network(part) for part in parts], dim=1)
    torch.testing.assert_close(network(torch.cat(parts, 1), documents_BT=documents), alone, rtol=1e-5, atol=1e-5)


def test_the_loss_of_packed_documents_is_theirs() -> None:
    """The loss of a packed row is the sum of the documents' losses: no target is lost and none counted twice."""
    network = random_model(SHAPES["llama"])
    ids, targets = torch.randint(0, 31, (1, 24)), torch.randint(0, 31, (1, 24))
    documents = torch.tensor([[0] * 10 + [1] * 14])
    packed = network.loss(ids, targets, reduction="sum", documents_BT=documents)
    alone = sum(network.loss(ids[:, part], targets[:, part], reduction="sum") for part in (slice(10), slice(10, 24)))
    torch.testing.assert_close(packed, alone)


def test_right_padding_does_not_change_a_class() -> None:
    """A classifier reads each row at its last real token, whatever stands behind it."""
    model = random_model(GPTConfig(**SMALL, n_classes=3))
    ids = torch.randint(0, 31, (2, 12))
    lengths = torch.tensor([5, 12])
    scores = model.classify(ids, lengths)
    torch.testing.assert_close(scores[:1], model.classify(ids[:1, :5], lengths[:1]))
    assert scores.shape == (2, 3) and scores.dtype == torch.float32


def test_a_classifier_keeps_the_trunk_and_gets_a_new_head() -> None:
    """`with_classifier` copies everything but the head, and leaves the language model as it was."""
    base = random_model(SHAPES["gpt2"])
    classifier = base.with_classifier(2)
    ids = torch.randint(0, 31, (2, 12))
    assert torch.equal(classifier.eval()(ids), base(ids))
    assert classifier.head_weight().shape == (2, 32) and base.head_weight().shape == (31, 32)
    classifier.token_embedding.weight.data.zero_()
    assert base.token_embedding.weight.any()


def test_the_first_loss_is_that_of_a_guess() -> None:
    """An untrained model knows nothing: its loss is close to the logarithm of the vocabulary."""
    torch.manual_seed(0)
    model = GPT(preset("default"))
    ids, targets = torch.randint(0, 4096, (2, 4, 64))
    assert model.loss(ids, targets).item() == pytest.approx(8.318, abs=0.1)


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("seed-124m", {}, 163_009_536),
        ("seed-124m", {"tied_head": True}, 124_412_160),
        ("gpt2-124m", {}, 124_439_808),
        ("gpt2-355m", {}, 354_823_168),
        ("gpt2-774m", {}, 774_030_080),
        ("gpt2-1558m", {}, 1_557_611_200),
        ("smollm2-135m", {}, 134_515_008),
        ("smollm2-360m", {}, 361_821_120),
        ("llama3.2-1b", {}, 1_235_814_400),
        ("qwen2.5-0.5b", {}, 494_032_768),
        ("qwen3-0.6b", {}, 596_049_920),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, changes: dict[str, Any], parameters: int) -> None:
    """Each preset counts exactly what the tutorial prints or the published model has."""
    assert preset(name, **changes).parameter_count() == parameters


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name: str) -> None:
    """`from_dict` undoes `to_dict`."""
    import json

    assert GPTConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 5}, "d_model 32 is not divisible by n_heads 5; change one of them"),
        ({"n_kv_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"norm": "batchnorm"}, "norm is 'batchnorm', but must be one of layernorm, rmsnorm"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"head_dim": 7}, "head_dim 7 is odd, but rotary positions need pairs; change d_model or n_heads"),
        ({"n_layers": 0}, "n_layers is 0, but must be at least 1"),
        ({"n_classes": 1}, "n_classes is 1"),
    ],
)
def test_an_impossible_shape_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    """A configuration says what is wrong with it, before any weight is made."""
    with pytest.raises(ValueError, match=said):
        GPTConfig(**{**SMALL, **changes})


def test_a_misspelt_setting_names_the_nearest() -> None:
    """Unknown and missing keys, unknown presets and overlong texts are refused with a way forward."""
    with pytest.raises(ValueError, match="unknown model setting 'n_layer'; did you mean 'n_layers'"):
        GPTConfig.from_dict({"n_layer": 3})
    with pytest.raises(ValueError, match="settings are missing: vocab_size"):
        GPTConfig.from_dict({"context_length": 3})
    with pytest.raises(ValueError, match="did you mean 'gpt2-124m'"):
        preset("gpt2-125m")
    with pytest.raises(ValueError, match="25 tokens do not fit into the context length 24"):
        random_model(SHAPES["llama"])(torch.zeros(1, 25, dtype=torch.long))
