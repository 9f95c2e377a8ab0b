"""Goes in: a tokenizer.json as Hugging Face publishes it. Comes out: byte-level BPE ranks, and how text is split first.

The file can describe many kinds of tokenizer. The one that tiktoken's ranks can be is BPE over GPT-2's spelling of
bytes, in which a token's id says when its merge comes. Everything else is refused with what it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.encodings import BYTES, COMPOSING, GPT2_PATTERN, PATTERNS, byte_spellings
from pipeline.errors import ConfigurationError


def read_tokenizer_json(path: Path) -> tuple[dict[bytes, int], str]:
    """Ranks, and the pattern by which text is split; ConfigurationError for a tokenizer of another kind.

    Special tokens must come after all others: the pipeline's own <|endoftext|> takes the first id behind the ranks,
    which is GPT-2's and Qwen's end of text and Llama 3's beginning of text.
    """
    try:
        content = json.loads(path.read_bytes())
        model = content["model"]
        kind, vocabulary = model.get("type", "BPE"), dict(model["vocab"])
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        special = {token["content"] for token in content.get("added_tokens", [])}
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not a tokenizer.json of a BPE vocabulary") from error
    if kind != "BPE" or model.get("byte_fallback"):
        what = "SentencePiece's kind of BPE (byte_fallback)" if kind == "BPE" else f"of the type {kind}"
        raise ConfigurationError(f"{path}: the vocabulary is {what}; only byte-level BPE can be read")
    byte_of = {character: byte for byte, character in byte_spellings().items()}
    try:
        ranks = {bytes(byte_of[c] for c in t): int(id_) for t, id_ in vocabulary.items() if t not in special}
    except KeyError as error:
        raise ConfigurationError(f"{path}: a token holds {error.args[0]!r}, which spells no byte") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ConfigurationError(
            f"{path}: the ids of ordinary tokens do not count 0, 1, 2, …; special tokens before or between them "
            "(as in SmolLM2) cannot be read"
        )
    if missing := [byte for byte in range(BYTES) if bytes([byte]) not in ranks]:
        raise ConfigurationError(f"{path}: byte {missing[0]} has no token, so some text could not be encoded")
    order = [vocabulary.get(left + right, -1) for left, right in merges]
    if order != sorted(order) or -1 in order:
        raise ConfigurationError(f"{path}: merges and ids are not in one order, so ranks would split text otherwise")
    return ranks, _pattern(content, path)


def _pattern(content: dict[str, Any], path: Path) -> str:
    """The pattern of the pre-tokenizer; a text is brought to NFC before exactly where the pattern's name says so."""
    normalizer = content.get("normalizer")
    steps = [content.get("pre_tokenizer") or {}]
    if steps[0].get("type") == "Sequence":
        steps = steps[0]["pretokenizers"]
    types = [step.get("type") for step in steps]
    byte_level = steps[-1]
    if (normalizer and normalizer.get("type") != "NFC") or byte_level.get("add_prefix_space"):
        raise ConfigurationError(f"{path}: text is changed before it is split, which the pipeline does not do")
    pattern = None
    if types == ["ByteLevel"] and byte_level.get("use_regex", True):
        pattern = GPT2_PATTERN
    if types == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and byte_level.get("use_regex", True):
        pattern = PATTERNS["smollm"]
    if types == ["Split", "ByteLevel"] and not byte_level.get("use_regex", True):
        split = steps[0]
        if split.get("behavior") == "Isolated" and not split.get("invert") and "Regex" in split["pattern"]:
            pattern = str(split["pattern"]["Regex"])
    if pattern is None:
        raise ConfigurationError(
            f"{path}: text is split by {types}; known are ByteLevel, and one Split or single Digits before it"
        )
    if bool(normalizer) != (pattern in COMPOSING):
        raise ConfigurationError(
            f"{path}: the normalizer is {'NFC' if normalizer else 'null'}; NFC is known with the pattern of qwen2, "
            "and with no other"
        )
    return pattern
