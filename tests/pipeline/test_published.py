"""Training goes on from published weights, with the vocabulary they were trained with, or is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import load_model
from model.gpt import GPT, GPTConfig
from model.weights import to_huggingface
from pipeline import encodings
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.exporters.huggingface import write_tokenizer
from pipeline.published import (
    digest_of_model,
    published_config,
    published_encoding,
    published_model,
    require_digest,
)
from pipeline.tokenizer_json import read_tokenizer_json

SMALL: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "d_model": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layernorm", "positions": "learned", "mlp": "gelu", "linear_bias": True, "qkv_bias": True},
    "llama": {"tied_head": False, "n_kv_heads": 1},
}
FROM_FOLDER = {"init_from": "published", "n_layers": None, "n_heads": None, "d_model": None, "context_length": 64}


def publish(folder: Path, ranks: dict[bytes, int] | None, family: str = "gpt2", vocab_size: int = 320) -> GPT:
    """A random model, whose vocabulary is padded, in a folder in Hugging Face's form."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=vocab_size, context_length=96, **SMALL, **SHAPES[family]))
    weights, config = to_huggingface(model)
    folder.mkdir()
    names = sorted(weights)
    parts = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    if ranks:
        write_tokenizer(ranks, folder, context_length=96)
    return model


@pytest.fixture
def project(made: Any) -> Any:
    """A project with tokens, ready to pretrain anew."""
    shutil.rmtree(made.path("checkpoints/base"))
    shutil.rmtree(made.path("scratch"))
    return made


@pytest.mark.parametrize("family", SHAPES)
def test_training_starts_from_the_published_weights(project: Any, family: str) -> None:
    """With a rate of almost nothing the trained model is the published one, cut to the tokens' 300 words."""
    folder = project.root / "published"
    model = publish(folder, encodings.read_ranks(project.path("tokens") / encodings.RANKS_FILE), family)
    rates = {"learning_rate": 1e-12, "muon_learning_rate": 1e-12, "embedding_learning_rate": None}
    project.run("pretrain", **FROM_FOLDER, init_from_sha256=digest_of_model(folder), **rates)
    trained = load_model(project.path("checkpoints/base"))
    assert (trained.config.vocab_size, trained.config.context_length) == (300, 64)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name][: len(value)], rtol=0, atol=1e-5)


def test_published_weights_are_fine_tuned_as_they_are(project: Any) -> None:
    """With no step of training the base is the published model to the bit, and a fine-tuning starts from it."""
    folder = project.root / "published"
    model = publish(folder, encodings.read_ranks(project.path("tokens") / encodings.RANKS_FILE), "llama")
    project.run("pretrain", **FROM_FOLDER, init_from_sha256=digest_of_model(folder), steps=0)
    base = load_model(project.path("checkpoints/base"))
    for name, value in base.state_dict().items():
        assert torch.equal(value, model.state_dict()[name][: len(value)])
    assert project.manifest("checkpoints/base").facts["tokens_seen"] == 0
    project.run("finetune", "spam")
    assert project.manifest("checkpoints/spam").inputs["start"] == project.manifest("checkpoints/base").digest
    with pytest.raises(ConfigurationError, match="steps must be at least 1"):
        project.run("pretrain", steps=0)


def test_weights_follow_a_vocabulary_whose_special_tokens_come_first(
    project: Any, smollm_like: Callable[[Path], Path]
) -> None:
    """SmolLM2's way: with our ids in and out, the published model says what it says with its own.

    A byte that it has no token for starts as the mean of all words.
    """
    folder = project.root / "published"
    model = publish(folder, None, "llama", vocab_size=80)
    theirs = read_tokenizer_json(smollm_like(folder)).theirs
    assert len(theirs) > 80
    project.run("tokenize", ranks=str(folder / "tokenizer.json"))
    project.run("pretrain", **FROM_FOLDER, init_from_sha256=digest_of_model(folder), steps=0)
    base = load_model(project.path("checkpoints/base")).eval()
    assert base.config.vocab_size == len(theirs)
    known = [ours for ours, id_ in enumerate(theirs) if id_ is not None]
    published = torch.tensor([id_ for id_ in theirs if id_ is not None])
    ids = torch.randint(0, len(known), (2, 16))
    with torch.no_grad():
        said, expected = base.logits(base(torch.tensor(known)[ids])), model.logits(model.eval()(published[ids]))
    torch.testing.assert_close(said[..., known], expected[..., published])
    new = [ours for ours, id_ in enumerate(theirs) if id_ is None]
    mean = model.token_embedding.weight[published].mean(0)
    torch.testing.assert_close(base.token_embedding.weight[new], mean.expand(len(new), -1))


def test_the_digest_must_be_in_the_params(project: Any) -> None:
    """Without the digest the line says what it is; with a wrong one the folder is refused."""
    folder = project.root / "published"
    publish(folder, None)
    found = digest_of_model(folder)
    with pytest.raises(ConfigurationError, match=f"init_from_sha256 is missing; for published .* set it to {found}"):
        project.run("pretrain", **FROM_FOLDER)
    with pytest.raises(IntegrityError, match=f"the model's digest is {found}, but"):
        project.run("pretrain", **FROM_FOLDER, init_from_sha256="0" * 64)
    require_digest(folder, found)


def test_tokens_of_another_vocabulary_are_refused(project: Any) -> None:
    """The vocabulary beside the weights must be the tokens'; too many words, or positions, are a wrong setting."""
    folder = project.root / "published"
    publish(folder, encodings.train_ranks(["one two three four five, one two three " * 9], 270))
    with pytest.raises(IntegrityError, match=r"300 words\) than published/tokenizer.json \(270 words\)"):
        project.run("pretrain", **FROM_FOLDER, init_from_sha256=digest_of_model(folder))
    with pytest.raises(ConfigurationError, match="has learned 96 positions"):
        project.run("pretrain", **{**FROM_FOLDER, "context_length": 128}, init_from_sha256="")
    with pytest.raises(ConfigurationError, match="n_layers must be null, since init_from"):
        project.run("pretrain", **{**FROM_FOLDER, "n_layers": 2})
    shutil.rmtree(folder)
    publish(folder, None, vocab_size=280)
    with pytest.raises(ConfigurationError, match="knows 280 words, but the tokens have 300"):
        project.run("pretrain", **FROM_FOLDER, init_from_sha256=digest_of_model(folder))


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """A transposed tensor, a torn file, a missing one, another family and SentencePiece each say what they are."""
    folder = tmp_path / "published"
    publish(folder, None)
    config = published_config(folder)
    part = folder / "model-2.safetensors"
    weights, content = load_file(part), part.read_bytes()
    name = "transformer.h.0.mlp.c_fc.weight"
    save_file({**weights, name: weights[name].t().contiguous()}, part)
    with pytest.raises(ConfigurationError, match=rf"{name} should be \(32, 128\), found \(128, 32\), which is its tra"):
        published_model(folder, config)
    part.write_bytes(content[:-9])
    with pytest.raises(IntegrityError, match=r"model-2\.safetensors: not a safetensors file"):
        published_model(folder, config)
    part.unlink()
    with pytest.raises(ConfigurationError, match=r"model-2\.safetensors: not there"):
        published_model(folder, config)
    (folder / "tokenizer.model").write_bytes(b"\x0a")
    with pytest.raises(ConfigurationError, match=r"tokenizer\.model: a SentencePiece vocabulary"):
        published_encoding(folder)
    config_file = folder / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"n_layer": "1"}))
    with pytest.raises(
        ConfigurationError, match=r'published: config\.json: n_layer is "1", but must be a whole number'
    ):
        published_config(folder)
    for weight_map in ([], {"lm_head.weight": 1}):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ConfigurationError, match=r"index\.json: weight_map must be an object"):
            published_model(folder, config)
    config_file.write_text('{"model_type": "mamba"}')
    with pytest.raises(ConfigurationError, match="model_type 'mamba' is not one of"):
        published_config(folder)
