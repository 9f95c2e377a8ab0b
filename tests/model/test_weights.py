"""Weights travel between our names and Hugging Face's without changing what the model says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.gpt import GPT, GPTConfig, KeyValueCache
from model.huggingface_config import WeightsMismatch, config_from_huggingface
from model.weights import from_huggingface, to_huggingface

SMALL: dict[str, Any] = {"vocab_size": 61, "context_length": 32, "n_layers": 2, "n_heads": 4, "d_model": 32}
GPT2: dict[str, Any] = {"norm": "layernorm", "positions": "learned", "mlp": "gelu", "linear_bias": True}
SCALED = (4.0, 1.0, 4.0, 16)
SHAPES = {
    "gpt2": GPTConfig(**SMALL, **GPT2, qkv_bias=True),
    "gpt2 untied": GPTConfig(**SMALL, **GPT2, qkv_bias=True, tied_head=False),
    "llama": GPTConfig(**SMALL, n_kv_heads=2),
    "llama untied, stretched": GPTConfig(**SMALL, n_kv_heads=1, tied_head=False, rope_scaling=SCALED),
    "qwen2": GPTConfig(**SMALL, n_kv_heads=2, qkv_bias=True, norm_eps=1e-6),
    "qwen3": GPTConfig(**SMALL, n_kv_heads=2, qk_norm=True, head_dim=16, norm_eps=1e-6),
}


def random_model(config: GPTConfig) -> GPT:
    """A model whose every weight, biases and norms included, is random."""
    torch.manual_seed(3)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def their_model(config_dict: dict[str, Any]) -> Any:
    """The transformers model of a config.json's content, with random weights."""
    transformers = pytest.importorskip("transformers")
    values = {key: value for key, value in config_dict.items() if key not in ("architectures", "torch_dtype")}
    config = transformers.AutoConfig.for_model(**values)
    if config_dict["architectures"][0].endswith("ForSequenceClassification"):
        return transformers.AutoModelForSequenceClassification.from_config(config).eval()
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def load(theirs: Any, state_dict: dict[str, torch.Tensor]) -> None:
    """Load, allowing only the tied head to be absent."""
    missing, unexpected = theirs.load_state_dict(state_dict, strict=False)
    assert unexpected == [] and set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_exported_weights_give_the_same_logits_in_transformers(name: str) -> None:
    """Our model and the transformers model made from its export agree within 1e-4, batched, over the whole context."""
    ours = random_model(SHAPES[name])
    state_dict, config_dict = to_huggingface(ours)
    theirs = their_model(config_dict)
    load(theirs, state_dict)
    ids = torch.randint(0, 61, (3, 32))
    torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_imported_weights_give_the_same_logits_as_in_transformers(name: str) -> None:
    """Weights that transformers made give our model the same logits, with a cache too, within 1e-4."""
    torch.manual_seed(5)
    theirs = their_model(to_huggingface(random_model(SHAPES[name]))[1])
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config_dict = theirs.config.to_dict() | {"architectures": [type(theirs).__name__]}
    ours = from_huggingface(theirs.state_dict(), config_dict)
    assert ours.config == SHAPES[name]
    ids = torch.randint(0, 61, (3, 32))
    cache = KeyValueCache(ours.config, 3, 32, ours.token_embedding.weight)
    hidden = torch.cat([ours(ids[:, :20], cache), ours(ids[:, 20:], cache)], dim=1)
    torch.testing.assert_close(ours.logits(hidden), theirs(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_rows_padded_on_the_left_agree_token_by_token_through_both_caches(name: str) -> None:
    """Prompts of 7, 12 and 3 tokens in one batch, then five tokens one at a time: the same logits within 1e-4."""
    ours = random_model(SHAPES[name])
    state_dict, config_dict = to_huggingface(ours)
    theirs = their_model(config_dict)
    load(theirs, state_dict)
    ids = torch.randint(0, 61, (3, 17))
    padding = torch.tensor([5, 0, 9])
    seen = (torch.arange(17) >= padding[:, None]).long()
    positions = (torch.arange(17) - padding[:, None]).clamp(min=0)
    cache, their_cache = KeyValueCache(ours.config, 3, 17, ours.token_embedding.weight), None
    for start, end in ((0, 12), *((at, at + 1) for at in range(12, 17))):
        logits = ours.logits(ours(ids[:, start:end], cache, padding))
        found = theirs(
            ids[:, start:end], attention_mask=seen[:, :end], position_ids=positions[:, start:end],
            past_key_values=their_cache, use_cache=True,
        )  # fmt: skip
        their_cache = found.past_key_values
        real = seen[:, start:end].bool()
        torch.testing.assert_close(logits[real], found.logits[real], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_import_undoes_export(name: str) -> None:
    """Exporting and importing gives back the same configuration and the same bits."""
    ours = random_model(SHAPES[name])
    again = from_huggingface(*to_huggingface(ours, end_id=60))
    assert again.config == ours.config
    for key, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_a_classifier_gives_the_same_scores_in_transformers(name: str) -> None:
    """Rows padded on the right with the end-of-text id are read at the same token by both."""
    ours = random_model(dataclasses.replace(SHAPES[name], n_classes=3))
    state_dict, config_dict = to_huggingface(ours, end_id=60)
    theirs = their_model(config_dict)
    load(theirs, state_dict)
    ids = torch.randint(0, 60, (3, 9))
    lengths = torch.tensor([9, 4, 1])
    for row, length in enumerate(lengths):
        ids[row, length:] = 60
    scores = theirs(ids, attention_mask=(ids != 60).long()).logits
    torch.testing.assert_close(ours.classify(ids, lengths), scores, rtol=0, atol=1e-4)
    again = from_huggingface(state_dict, config_dict)
    assert again.config == ours.config
    torch.testing.assert_close(again.classify(ids, lengths), scores, rtol=0, atol=1e-4)


@torch.no_grad()
def test_missing_query_biases_are_exported_to_gpt2_as_zeros() -> None:
    """The tutorial's shape has no query, key and value biases; GPT-2's class runs it all the same."""
    ours = random_model(GPTConfig(**SMALL, **GPT2, tied_head=False))
    state_dict, config_dict = to_huggingface(ours)
    theirs = their_model(config_dict)
    load(theirs, state_dict)
    ids = torch.randint(0, 61, (2, 32))
    torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), rtol=0, atol=1e-4)


def test_openai_names_without_prefix_are_understood() -> None:
    """GPT-2 as OpenAI uploaded it has no `transformer.` prefix, but has the causal mask among its tensors."""
    ours = random_model(SHAPES["gpt2"])
    state_dict, config_dict = to_huggingface(ours)
    bare = {name.removeprefix("transformer."): value for name, value in state_dict.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    assert torch.equal(from_huggingface(bare, config_dict).token_embedding.weight, ours.token_embedding.weight)


@pytest.mark.parametrize(
    ("name", "tensor", "change", "said"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight", "transpose", "which is its transpose"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "transpose", "which is its transpose"),
        ("gpt2", "transformer.h.1.mlp.c_fc.weight", "transpose", "which is its transpose"),
        ("llama", "model.layers.0.self_attn.k_proj.weight", "drop", "is missing"),
        ("gpt2", "transformer.h.0.attn.c_attn.bias", "drop", "is missing"),
        ("qwen3", "model.norm.weight", "shorten", "should be (32,), found (31,)"),
        ("llama", "model.layers.9.mlp.up_proj.weight", "add", "unknown tensors"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(name: str, tensor: str, change: str, said: str) -> None:
    """A missing, transposed, shortened or unknown tensor is named, with what was expected."""
    state_dict, config_dict = to_huggingface(random_model(SHAPES[name]))
    if change == "drop":
        del state_dict[tensor]
    elif change == "add":
        state_dict[tensor] = torch.zeros(1)
    else:
        value = state_dict[tensor]
        state_dict[tensor] = value.t() if change == "transpose" else value[:-1]
    with pytest.raises(WeightsMismatch) as refusal:
        from_huggingface(state_dict, config_dict)
    assert tensor in str(refusal.value) and said in str(refusal.value)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_tied_head_in_the_file_must_be_the_embedding(name: str) -> None:
    """A second copy of the embedding is taken for what it is; another head, or one of another shape, is refused."""
    state_dict, config_dict = to_huggingface(random_model(SHAPES[name]))
    embedding = next(value for key, value in state_dict.items() if key.endswith(("embed_tokens.weight", "wte.weight")))
    assert from_huggingface({**state_dict, "lm_head.weight": embedding}, config_dict).config.tied_head
    for head in (embedding + 1, torch.zeros(5, 5)):
        with pytest.raises(WeightsMismatch, match=r"lm_head.weight is not the token embedding"):
            from_huggingface({**state_dict, "lm_head.weight": head}, config_dict)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda value: value.index_fill(0, torch.tensor([1]), torch.nan), "holds NaN or infinity"),
        (lambda value: value.index_fill(0, torch.tensor([1]), -torch.inf), "holds NaN or infinity"),
        (lambda value: value.double() * 1e60, "holds NaN or infinity"),
        (lambda value: (value * 100).to(torch.int8), "holds int8, not one of float32, bfloat16, float16, float64"),
        (lambda value: value.to(torch.float8_e4m3fn), "holds float8_e4m3fn, not one of"),
    ],
    ids=["nan", "infinite", "beyond float32", "int8", "float8"],
)
def test_a_tensor_without_finite_numbers_is_refused_by_name(
    name: str, spoilt: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    """NaN, infinity, and numbers that mean something only with a scale beside them: the tensor is named."""
    state_dict, config_dict = to_huggingface(random_model(SHAPES[name]))
    tensor = {"gpt2": "transformer.h.1.attn.c_attn.weight", "llama": "model.layers.1.mlp.up_proj.weight"}[name]
    with pytest.raises(WeightsMismatch, match=f"tensor {tensor} {said}"):
        from_huggingface({**state_dict, tensor: spoilt(state_dict[tensor])}, config_dict)


def test_what_no_family_can_hold_is_refused() -> None:
    """A mixture of families, an unknown family and an unsupported setting each get a sentence, not a wrong model."""
    with pytest.raises(WeightsMismatch, match="no Hugging Face family"):
        to_huggingface(random_model(GPTConfig(**SMALL, mlp="gelu")))
    with pytest.raises(WeightsMismatch, match="model_type 'mamba'"):
        config_from_huggingface({"model_type": "mamba"})
    with pytest.raises(WeightsMismatch, match="has no 'n_positions'"):
        config_from_huggingface({"model_type": "gpt2", "vocab_size": 3})
    config_dict = to_huggingface(random_model(SHAPES["llama"]))[1]
    with pytest.raises(WeightsMismatch, match="rope_type 'linear'"):
        config_from_huggingface(config_dict | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    with pytest.raises(WeightsMismatch, match="yarn"):
        config_from_huggingface(config_dict | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}})


LLAMA3 = {
    "rope_type": "llama3",
    **{"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
}


@pytest.mark.parametrize(
    ("rope", "base", "scaling"),
    [
        ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}, 5e4, SCALED),
        ({"rope_scaling": None, "rope_parameters": {**LLAMA3, "rope_theta": 7e4}}, 7e4, SCALED),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "default"}}, 5e4, None),
    ],
)
@torch.no_grad()
def test_rotations_are_read_as_transformers_reads_them(rope: dict[str, Any], base: float, scaling: Any) -> None:
    """rope_scaling goes before rope_parameters, and the base in either before rope_theta, with the same logits."""
    state_dict, config_dict = to_huggingface(random_model(SHAPES["llama"]))
    config_dict |= {"rope_theta": 5e4, **rope}
    theirs = their_model({key: dict(value) if isinstance(value, dict) else value for key, value in config_dict.items()})
    load(theirs, state_dict)
    ours = from_huggingface(state_dict, config_dict)
    assert (ours.config.rope_theta, ours.config.rope_scaling) == (base, scaling)
    ids = torch.randint(0, 61, (2, 32))
    torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "quantization_config", {"quant_method": "gptq"}),
        ("llama", "quantization_config", {"quant_method": "awq"}),
    ],
)
def test_a_setting_that_would_change_the_logits_is_refused_by_name(name: str, key: str, value: Any) -> None:
    """What transformers would compute otherwise, and this model cannot, is refused with its key."""
    config_dict = to_huggingface(random_model(SHAPES[name]))[1]
    with pytest.raises(WeightsMismatch, match=f"config.json: {key} "):
        config_from_huggingface(config_dict | {key: value})


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("llama", "num_hidden_layers", "3", 'is "3", but must be a whole number'),
        ("llama", "num_hidden_layers", 2.0, "is 2.0, but must be a whole number"),
        ("llama", "num_hidden_layers", True, "is true, but must be a whole number"),
        ("llama", "vocab_size", None, "is null, but must be a whole number"),
        ("llama", "num_attention_heads", 0, "is 0, but must be a whole number from 1"),
        ("llama", "num_key_value_heads", -2, "is -2, but must be a whole number from 1 to 2,147,483,647, or null"),
        ("llama", "rms_norm_eps", None, "is null, but must be a number of at least 0"),
        ("llama", "rms_norm_eps", float("nan"), "is NaN, but must be a number of at least 0"),
        ("llama", "rope_theta", "10000", 'is "10000", but must be a number above 0'),
        ("llama", "rope_theta", 10**40, "is 1000.*, but must be a number above 0"),
        ("llama", "rope_parameters", "x", 'is "x", but must be an object or null'),
        ("llama", "tie_word_embeddings", "false", 'is "false", but must be true or false'),
        ("llama", "architectures", "LlamaForCausalLM", 'is "LlamaForCausalLM", but must be a list of names'),
        ("gpt2", "n_embd", [32], r"is \[32\], but must be a whole number"),
        ("gpt2", "resid_pdrop", "0", 'is "0", but must be a number of at least 0, or null'),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_key(name: str, key: str, value: Any, said: str) -> None:
    """A number in quotes, null where a number is needed and the like: the line names the key and what it must be."""
    config_dict = to_huggingface(random_model(SHAPES[name]))[1]
    with pytest.raises(WeightsMismatch, match=f"^config.json: {key} {said}"):
        config_from_huggingface(config_dict | {key: value})


def test_values_that_do_not_go_together_are_refused() -> None:
    """What is wrong within rope_scaling is named by its path, and a shape that cannot be by the reason."""
    config_dict = to_huggingface(random_model(SHAPES["llama"]))[1]
    with pytest.raises(WeightsMismatch, match=r'rope_scaling.factor is "4", but must be a number above 0'):
        config_from_huggingface(config_dict | {"rope_scaling": {**LLAMA3, "factor": "4"}})
    with pytest.raises(WeightsMismatch, match=r"config\.json: n_heads 4 is not a multiple of n_kv_heads 3"):
        config_from_huggingface(config_dict | {"num_key_value_heads": 3})
