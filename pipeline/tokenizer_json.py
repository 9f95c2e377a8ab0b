"""Goes in: a tokenizer.json as Hugging Face publishes it. Comes out: byte-level BPE ranks, and how text is split first.
And the other way round.

The file can describe many kinds of tokenizer. The one that tiktoken's ranks can be is BPE over GPT-2's spelling of
bytes, in which a token's id says when its merge comes. Everything else is refused with what it is.

Our ids count the ordinary tokens 0, 1, 2, …, and the end of text comes next. Where a file's special tokens come first
(SmolLM2, StarCoder), its ids are others, and `theirs` says which row of the model's embedding belongs to which of ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encodings import BYTES, COMPOSING, END_OF_TEXT, GPT2_PATTERN, PATTERNS, Pattern, byte_spellings
from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class PublishedVocabulary:
    """A tokenizer.json's vocabulary under our ids: ranks, the pattern by which text is split, and the file's own ids.

    `theirs` holds the file's id for each of ours, the end of text last, and None for a byte that the file has no token
    for: its own library drops such bytes without a word.
    """

    ranks: dict[bytes, int]
    pattern: str
    theirs: list[int | None]

    @property
    def is_renumbered(self) -> bool:
        """Whether any of our ids is another in the file."""
        return self.theirs != [*range(len(self.theirs))]


def read_tokenizer_json(path: Path) -> PublishedVocabulary:
    """The vocabulary of the file; ConfigurationError for a tokenizer of another kind.

    The end of text is the first id behind the ordinary tokens where they count from 0, which is GPT-2's and Qwen's
    <|endoftext|> and Llama 3's beginning of text, and otherwise the token of that name.
    """
    try:
        content = json.loads(path.read_bytes())
        model = content["model"]
        kind, vocabulary = model.get("type", "BPE"), dict(model["vocab"])
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        special = {token["content"]: int(token["id"]) for token in content.get("added_tokens", [])}
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not a tokenizer.json of a BPE vocabulary") from error
    if kind != "BPE" or model.get("byte_fallback"):
        what = "SentencePiece's kind of BPE (byte_fallback)" if kind == "BPE" else f"of the type {kind}"
        raise ConfigurationError(f"{path}: the vocabulary is {what}; only byte-level BPE can be read")
    if blank := [token for token in special if not token.strip()]:
        raise ConfigurationError(
            f"{path}: takes {blank[0]!r} out of a text before it is split, which the pipeline does not do"
        )
    byte_of = {character: byte for byte, character in byte_spellings().items()}
    try:
        id_of = {bytes(byte_of[c] for c in t): int(id_) for t, id_ in vocabulary.items() if t not in special}
    except KeyError as error:
        raise ConfigurationError(f"{path}: a token holds {error.args[0]!r}, which spells no byte") from error
    order = [vocabulary.get(left + right, -1) for left, right in merges]
    if order != sorted(order) or -1 in order:
        raise ConfigurationError(f"{path}: merges and ids are not in one order, so ranks would split text otherwise")
    if not model.get("ignore_merges") and (unmade := id_of.keys() - _made_by(merges, byte_of)):
        raise ConfigurationError(
            f"{path}: {len(unmade):,} tokens are made by no merge, which tiktoken would find in a text all the same"
        )
    in_order = sorted(id_of, key=id_of.__getitem__)
    missing = [token for token in map(bytes, zip(range(BYTES))) if token not in id_of]
    theirs: list[int | None] = [id_of[token] for token in in_order]
    if theirs == [*range(len(theirs))] and not missing:
        end = len(theirs)
    elif END_OF_TEXT in special:
        end = special[END_OF_TEXT]
    else:
        raise ConfigurationError(
            f"{path}: the ids of ordinary tokens do not count 0, 1, 2, … from the 256 bytes on, and no special token "
            f"is {END_OF_TEXT}; which id ends a text cannot be known"
        )
    # Bytes without a token come behind all merges, where a rank changes nothing of how other text is split.
    ranks = {token: rank for rank, token in enumerate([*in_order, *missing])}
    return PublishedVocabulary(ranks, _pattern(content, path), [*theirs, *[None] * len(missing), end])


def _made_by(merges: list[list[str]], byte_of: dict[str, int]) -> set[bytes]:
    """The single bytes, and what the merges make of them."""
    made = {bytes(byte_of[character] for character in left + right) for left, right in merges}
    return made | {bytes([byte]) for byte in range(BYTES)}


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


def write_tokenizer_json(
    ranks: dict[bytes, int], path: Path, pattern: Pattern, *, special: bool = True, begins: bool = False
) -> None:
    """Write a vocabulary that gives the ids of tiktoken for ordinary text.

    With `special` false even <|endoftext|> in a text is text, as it is to the pipeline. With `begins` every text gets
    end-of-text before it.
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
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    sequences = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    beginning = {
        "type": "TemplateProcessing",
        "single": [first, sequences[0]],
        "pair": [first, *sequences],
        "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [end_of_text], "tokens": [END_OF_TEXT]}},
    }
    pairs = merges(ranks)
    # tiktoken looks a whole piece of text up before it merges, which changes ids only where a token has no merge.
    whole_pieces = {"ignore_merges": True} if len(pairs) < sum(len(token) > 1 for token in ranks) else {}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": end_of_text, "content": END_OF_TEXT, **marks}] if special else [],
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
            **whole_pieces,
            "vocab": vocabulary,
            "merges": [[spelled(left), spelled(right)] for left, right in pairs],
        },
    }
    path.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs that were merged, in order: ranks hold only their results, so each token is split again.

    A token's last merge joined the two parts that byte-pair encoding of its bytes reaches without the token itself. A
    few of Llama 3's (588) are never reached: they are met only as a whole piece of text, and no pair makes them.
    """
    pairs = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            known = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            candidates = [each for each in known if each[0] != rank]
            if not candidates:
                break
            at = min(candidates)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return pairs
