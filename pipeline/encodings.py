"""Goes in: text, or a ranks file. Comes out: a tiktoken encoding, and ids. The only module that knows tiktoken.

Ranks files are tiktoken's own form, a line per token, its bytes in base64 and its rank; GPT-2's own files are read
too. Ranks alone do not decide ids: text is first split into pieces by a pattern, whose name stands in a file beside
ours and is recognised by digest for published ones; before Qwen's pattern it is brought to NFC. One special token is
added, <|endoftext|>, whose id is the number of ranks; whatever a text contains, it encodes to ordinary tokens only.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from struct import pack
from typing import Literal

import numpy as np
import numpy.typing as npt
import rustbpe
import tiktoken

from pipeline.errors import ConfigurationError, DataError

END_OF_TEXT = "<|endoftext|>"
RANKS_FILE = "tokenizer.tiktoken"
Encoding = tiktoken.Encoding
Pattern = Literal["gpt2", "cl100k", "qwen2", "o200k", "smollm"]
# As published: GPT-2's with its encoder.py, cl100k's (which is also Llama 3's) and o200k's in tiktoken's
# openai_public.py, Qwen2's and Qwen3's, where a digit stands alone, in their tokenizer.json. SmolLM's takes two steps
# there, every digit apart and then GPT-2's pattern; here they are one, in which white space before a digit stays whole,
# as at the end of a text. tiktoken 0.14 spells the first two with possessive quantifiers, for speed; the plain spelling
# is understood by every library, and the pieces are the same. llama.cpp and transformers know the first as gpt-2.
PATTERNS: dict[Pattern, str] = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "cl100k": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "o200k": r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "smollm": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+""",
}
GPT2_PATTERN = PATTERNS["gpt2"]
COMPOSING = frozenset({PATTERNS["qwen2"]})
"""The patterns whose publishers bring a text to Unicode NFC before they split it."""
LLAMA_3 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"
# sha256 of the ranks files that OpenAI publishes, as tiktoken's openai_public.py checks them, and of Llama 3's, as Meta
# publishes it with the weights and in the package llama-models.
PUBLISHED: dict[str, Pattern] = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": "gpt2",  # r50k_base
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k",  # cl100k_base
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k",  # o200k_base
    LLAMA_3: "cl100k",  # tokenizer.model
}
BYTES = 256
_PATTERN_SUFFIX = ".pattern"


def train_ranks(texts: Iterable[str], vocab_size: int, pattern: Pattern = "gpt2") -> dict[bytes, int]:
    """Byte-level BPE ranks for a vocabulary of `vocab_size` entries, the special token counted among them.

    Raises DataError if the text is too small to hold that many merges.
    """
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=PATTERNS[pattern])
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) < vocab_size - 1:
        raise DataError(
            f"the text holds merges for a vocabulary of {len(ranks) + 1:,} only; "
            f"lower tokenize.vocab_size (now {vocab_size:,}) or add text"
        )
    return ranks


def write_ranks(ranks: dict[bytes, int], path: Path, pattern: Pattern = "gpt2") -> None:
    """Write ranks in tiktoken's form, in order of rank, and beside them the name of their pattern."""
    path.with_suffix(_PATTERN_SUFFIX).write_text(f"{pattern}\n", encoding="ascii")
    lines = (b"%b %d\n" % (binascii.b2a_base64(token, newline=False), ranks[token]) for token in _in_order(ranks))
    path.write_bytes(b"".join(lines))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a ranks file; ConfigurationError names the first line that is not `base64 rank` or breaks the order.

    A file of merges is read with the ids beside it, as GPT-2's vocabulary was published: `vocab.bpe` with
    `encoder.json`, `merges.txt` with `vocab.json`. Of a `tokenizer.json` byte-level BPE is read.
    """
    if path.suffix == ".bpe" or path.name == "merges.txt":
        return read_gpt2_files(path, path.with_name("encoder.json" if path.suffix == ".bpe" else "vocab.json"))
    if path.suffix == ".json":
        from pipeline.tokenizer_json import read_tokenizer_json

        return read_tokenizer_json(path).ranks
    content = _content(path)
    if (known := _ranks_at_once(content)) is not None:
        _require_every_byte(known, path)
        return dict(known)
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[binascii.a2b_base64(token, strict_mode=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ConfigurationError(f"{path}, line {number}: expected `base64-token rank`") from error
        if len(ranks) != number or int(rank) != number - 1:
            raise ConfigurationError(f"{path}, line {number}: ranks must count 0, 1, 2, … and no token stand twice")
    _require_every_byte(ranks, path)
    return ranks


@lru_cache(maxsize=1)
def _ranks_at_once(content: bytes) -> dict[bytes, int] | None:
    """The ranks of a file that is as it should be, at half the cost; a stage reads what it has just written."""
    lines = content.splitlines()
    try:
        rows = (line.split() for line in lines)
        ranks = {binascii.a2b_base64(token, strict_mode=True): int(rank) for token, rank in rows}
    except (ValueError, binascii.Error):
        return None
    return ranks if [*ranks.values()] == [*range(len(lines))] else None


def pattern_of(path: Path) -> Pattern:
    """The pattern of a ranks file: GPT-2's for merges, what stands in it or beside it, or what its digest is known for.

    ConfigurationError if none of them tells, since the wrong pattern would give other ids without a word.
    """
    if path.suffix == ".bpe" or path.name == "merges.txt":
        return "gpt2"
    if path.suffix == ".json":
        from pipeline.tokenizer_json import read_tokenizer_json

        split = read_tokenizer_json(path).pattern
        for name, pattern in PATTERNS.items():
            if pattern == split:
                return name
        raise ConfigurationError(f"{path}: splits text by a pattern of its own; known: {', '.join(PATTERNS)}")
    beside = path.with_suffix(_PATTERN_SUFFIX)
    said = beside.read_text(encoding="utf-8").strip() if beside.is_file() else None
    for name in PATTERNS:
        if name == said:
            return name
    if said is not None:
        raise ConfigurationError(f"{beside}: {said[:40]!r} is no pattern; known: {', '.join(PATTERNS)}")
    digest = digest_of_ranks(path)
    if digest not in PUBLISHED:
        raise ConfigurationError(
            f"{path}: not a ranks file that is known, and it does not say by which pattern text is split; "
            f"set tokenize.pattern to {', '.join(PATTERNS)}"
        )
    return PUBLISHED[digest]


def digest_of_ranks(path: Path) -> str:
    """sha256 of a ranks file, its lines ended in one way."""
    return hashlib.sha256(b"\n".join([*_lines(path), b""])).hexdigest()


def read_gpt2_files(vocab_bpe: Path, encoder_json: Path) -> dict[bytes, int]:
    """Ranks from GPT-2's two files, merges in order and ids by spelled token; ConfigurationError if they disagree."""
    byte_of = {character: byte for byte, character in byte_spellings().items()}
    try:
        ids = json.loads(b"\n".join(_lines(encoder_json)))
        ids.pop(END_OF_TEXT, None)
        ranks = {bytes(byte_of[c] for c in token): int(rank) for token, rank in ids.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{encoder_json}: expected one JSON object of tokens and their ids") from error
    for number, line in enumerate(_lines(vocab_bpe)[1:]):
        try:
            left, right = line.decode().split(" ")
            merged = bytes(byte_of[c] for c in left + right)
        except (ValueError, KeyError) as error:
            raise ConfigurationError(f"{vocab_bpe}, line {number + 2}: expected two tokens and a space") from error
        if ranks.get(merged) != BYTES + number:
            raise ConfigurationError(f"{encoder_json}: {left + right!r} should have the id {BYTES + number}")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ConfigurationError(f"{encoder_json}: ids must count 0, 1, 2, … and <|endoftext|> come last")
    _require_every_byte(ranks, encoder_json)
    return ranks


def byte_spellings() -> dict[int, str]:
    """A printable character for each byte, as GPT-2 spells them: itself where it is printable, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(BYTES + number) for number, byte in enumerate(others)}


def _lines(path: Path) -> list[bytes]:
    return _content(path).splitlines()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); tokenize.ranks names it") from error


def _require_every_byte(ranks: dict[bytes, int], path: Path) -> None:
    missing = [byte for byte in range(BYTES) if bytes([byte]) not in ranks]
    if missing:
        raise ConfigurationError(f"{path}: byte {missing[0]} has no token, so some text could not be encoded")


def encoding_of(ranks: dict[bytes, int], name: str = "homegrown", pattern: Pattern = "gpt2") -> tiktoken.Encoding:
    """The encoding for these ranks, with <|endoftext|> as the last id."""
    special = {END_OF_TEXT: len(ranks)}
    return tiktoken.Encoding(name, pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=special)


def load_encoding(path: Path) -> tiktoken.Encoding:
    """The encoding of a ranks file."""
    return encoding_of(read_ranks(path), path.stem, pattern_of(path))


def fingerprint(encoding: tiktoken.Encoding) -> str:
    """A digest of what decides ids: every token with its rank, the pattern, the special tokens."""
    return _fingerprint(encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens)


def fingerprint_of(ranks: dict[bytes, int], pattern: Pattern) -> str:
    """That of `encoding_of(ranks, pattern)`, without making it."""
    return _fingerprint(ranks, PATTERNS[pattern], {END_OF_TEXT: len(ranks)})


def _fingerprint(ranks: dict[bytes, int], split: str, special: dict[str, int]) -> str:
    tokens = (pack("<II", ranks[token], len(token)) + token for token in _in_order(ranks))
    return hashlib.sha256(b"".join([split.encode(), *tokens, repr(sorted(special.items())).encode()])).hexdigest()


def _in_order(ranks: dict[bytes, int]) -> list[bytes]:
    """The tokens from the first rank to the last; a file's stand so already."""
    in_order = [*ranks.values()] == [*range(len(ranks))]
    return [*ranks] if in_order else sorted(ranks, key=ranks.__getitem__)


def encode(encoding: tiktoken.Encoding, text: str) -> npt.NDArray[np.uint32]:
    """Ordinary ids of a text, without a Python list between: special tokens inside a text are text.

    DataError for what tiktoken cannot split: about a million white-space characters in a row overflow its stack.
    """
    if encoding._pat_str in COMPOSING:  # the corpus is cleaned to NFC, but prompts come as they are
        text = unicodedata.normalize("NFC", text)
    try:
        return np.frombuffer(encoding._core_bpe.encode_to_tiktoken_buffer(text, set()), np.uint32)
    except ValueError as error:
        raise DataError("tiktoken cannot split this text; has it a million white-space characters in a row?") from error


def lister(encoding: tiktoken.Encoding) -> Callable[[str], list[int]]:
    """`encode` by this encoding, as a list: how the functions of model/ that take texts ask for ids.

    tiktoken's own `encode_ordinary` ends in a panic, which no `except Exception` sees, where this is a DataError.
    """

    def ids(text: str) -> list[int]:
        found: list[int] = encode(encoding, text).tolist()
        return found

    return ids


def bytes_of_tokens(encoding: tiktoken.Encoding, vocab_size: int) -> npt.NDArray[np.float64]:
    """How many bytes of text each token stands for; none for end-of-text."""
    sizes = np.zeros(vocab_size, np.float64)
    for token in range(vocab_size):
        if token != encoding.eot_token:
            try:
                sizes[token] = len(encoding.decode_single_token_bytes(token))
            except KeyError:  # a vocabulary padded beyond its tokens
                continue
    return sizes
