"""Goes in: a model and its vocabulary. Comes out: a folder that `transformers` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encodings import COMPOSING, END_OF_TEXT, PATTERNS, Pattern, byte_spellings

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
    """Write the vocabulary as tokenizer.json, giving the same ids as tiktoken for ordinary text.

    With `begins` end-of-text is put before every text, as a classifier was trained to expect. `chat_template`, in
    Jinja, is what `apply_chat_template` renders talks with.
    """
    spelling = byte_spellings()

    def spelled(token: bytes) -> str:
        return "".join(spelling[byte] for byte in token)

    end_of_text = len(ranks)
    vocabulary = {spelled(token): rank for token, rank in ranks.items()} | {END_OF_TEXT: end_of_text}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pre_tokenizer: dict[str, Any] = byte_level
    if pattern != "gpt2":  # whose pattern ByteLevel knows itself
        split = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    sequences = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    beginning = {
        "type": "TemplateProcessing",
        "single": [first, sequences[0]],
        "pair": [first, *sequences],
        "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [end_of_text], "tokens": [END_OF_TEXT]}},
    }
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": end_of_text, "content": END_OF_TEXT, **special}],
        "normalizer": {"type": "NFC"} if PATTERNS[pattern] in COMPOSING else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": beginning if begins else None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [[spelled(left), spelled(right)] for left, right in merges(ranks)],
        },
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, **names}
    if chat_template:
        settings["chat_template"] = chat_template
    _write_json(folder / "tokenizer_config.json", settings)


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs that were merged, in order: ranks hold only their results, so each token is split again.

    A token's last merge joined the two parts that byte-pair encoding reaches with the earlier ranks alone.
    """
    pairs = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            candidates = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            lowest, at = min(candidates)
            if lowest >= rank:
                raise ValueError(f"the token of rank {rank} cannot be reached by merges of lower rank")
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        pairs.append((parts[0], parts[1]))
    return pairs


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
