"""Goes in: a folder as published on Hugging Face. Comes out: its model, to go on training, and its vocabulary.

Read are config.json, safetensors in one file or several, and a byte-level BPE vocabulary: `tokenizer.json`, or GPT-2's
two files under either of their names. A SentencePiece vocabulary splits text in another way and is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import encodings
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.manifest import sha256_file

if TYPE_CHECKING:
    from model.gpt import GPT, GPTConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SENTENCEPIECE_FILE = "tokenizer.model"
TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILES = (TOKENIZER_FILE, "vocab.bpe", "merges.txt")


def require_digest(folder: Path, expected: str | None, setting: str = "pretrain.init_from_sha256") -> None:
    """Refuse a folder whose model is not the one that the params name, in `setting`.

    DVC watches the params, not the folder, so the params must change when the model does: ConfigurationError says what
    to write where the digest is missing, IntegrityError that the files have another.
    """
    found = digest_of_model(folder)
    if expected is None:
        raise ConfigurationError(f"{setting} is missing; for {folder} as it is now, set it to {found}")
    if expected != found:
        raise IntegrityError(
            f"{folder}: the model's digest is {found}, but {setting} is {expected}; "
            "put the model back, or set the digest if it was meant to change"
        )


def digest_of_model(folder: Path) -> str:
    """sha256 over the names and digests of config.json and the weights."""
    lines = [f"{path.name} {sha256_file(path)}\n" for path in [_require(folder / CONFIG_FILE), *_weights_files(folder)]]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def published_config(folder: Path) -> GPTConfig:
    """The configuration of the folder's model; ConfigurationError for a family that we cannot be."""
    from model.huggingface_config import WeightsMismatch, config_from_huggingface

    try:
        return config_from_huggingface(_json(folder / CONFIG_FILE))
    except WeightsMismatch as error:
        raise ConfigurationError(f"{folder}: {error}") from error


def published_model(folder: Path, config: GPTConfig) -> GPT:
    """The folder's model with our ids, cut to the vocabulary and context of `config`.

    A wrong tensor is refused by its name and shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from model.huggingface_config import WeightsMismatch
    from model.weights import cut_to, from_huggingface

    weights = {}
    for path in _weights_files(folder):
        try:
            weights.update(load_file(path))
        except SafetensorError as error:
            raise IntegrityError(f"{path}: not a safetensors file ({error})") from error
    try:
        return cut_to(from_huggingface(weights, _json(folder / CONFIG_FILE)), config, renumbered_words(folder))
    except WeightsMismatch as error:
        raise ConfigurationError(f"{folder}: {error}") from error


def published_encoding(folder: Path) -> encodings.Encoding | None:
    """The encoding of the folder's own vocabulary; None where it has none."""
    for name in VOCABULARY_FILES:
        if (folder / name).is_file():
            return encodings.load_encoding(folder / name)
    if (folder / SENTENCEPIECE_FILE).is_file():
        raise ConfigurationError(
            f"{folder / SENTENCEPIECE_FILE}: a SentencePiece vocabulary, which this pipeline cannot split text by; "
            "choose a model with a byte-level BPE vocabulary (GPT-2, Llama 3, Qwen), or remove the file to vouch that "
            "tokenize.ranks is its vocabulary"
        )
    return None


def renumbered_words(folder: Path) -> list[int | None] | None:
    """For each of our ids the published one, None for a byte that has none. None where all ids are the same."""
    from pipeline.tokenizer_json import read_tokenizer_json

    if not (folder / TOKENIZER_FILE).is_file():
        return None
    vocabulary = read_tokenizer_json(folder / TOKENIZER_FILE)
    return vocabulary.theirs if vocabulary.is_renumbered else None


def require_vocabulary(folder: Path, tokens: encodings.Encoding) -> None:
    """Refuse tokens of another vocabulary than the folder's; without one in it, the tokens' is taken on trust."""
    theirs = published_encoding(folder)
    if theirs is None or encodings.fingerprint(theirs) == encodings.fingerprint(tokens):
        return
    file = next(folder / name for name in VOCABULARY_FILES if (folder / name).is_file())
    raise IntegrityError(
        f"the tokens have another vocabulary ({tokens.n_vocab:,} words) than {file} ({theirs.n_vocab:,} words), which "
        f"the model was trained with; set tokenize.ranks to {file} and run again"
    )


def _weights_files(folder: Path) -> list[Path]:
    if (folder / INDEX_FILE).is_file():
        placed = _json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
            raise ConfigurationError(f"{folder / INDEX_FILE}: weight_map must be an object of tensors and their files")
        names = sorted(set(placed.values()))
        if any(Path(name).name != name for name in names):
            raise ConfigurationError(f"{folder / INDEX_FILE}: names a file outside its folder")
        return [_require(folder / name) for name in names]
    return [_require(folder / WEIGHTS_FILE)]


def _require(path: Path) -> Path:
    if not path.is_file():
        raise ConfigurationError(
            f"{path}: not there; a published model is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_require(path).read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{path}: not JSON") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected one JSON object")
    return content
