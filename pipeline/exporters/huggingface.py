"""Goes in: a model and its vocabulary. Comes out: a folder that `transformers` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encodings import END_OF_TEXT, Pattern
from pipeline.tokenizer_json import write_tokenizer_json

if TYPE_CHECKING:
    from model.gpt import GPT

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def write_model(model: GPT, folder: Path, *, end_of_text: int, labels: list[str]) -> None:
    """Write weights and configuration under Hugging Face's names; `labels` names a classifier's outputs."""
    from model.tensor_file import write_tensors
    from model.weights import to_huggingface

    weights, config = to_huggingface(model, end_id=end_of_text)
    if labels:
        config |= {
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
        }
    # transformers refuses a file that does not say who wrote its tensors.
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_tensors(folder / WEIGHTS_FILE, contiguous, {"format": "pt"})
    _write_json(folder / CONFIG_FILE, config)


def write_tokenizer(
    ranks: dict[bytes, int],
    folder: Path,
    *,
    context_length: int,
    pattern: Pattern = "gpt2",
    begins: bool = False,
    chat_template: str | None = None,
) -> None:
    """Write the vocabulary as tokenizer.json, with the settings that transformers wants beside it.

    With `begins` end-of-text is put before every text, as a classifier was trained to expect. `chat_template`, in
    Jinja, is what `apply_chat_template` renders talks with.
    """
    write_tokenizer_json(ranks, folder / "tokenizer.json", pattern, begins=begins)
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, **names}
    if chat_template:
        settings["chat_template"] = chat_template
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
