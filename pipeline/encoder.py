"""Goes in: a ranks file and texts as UTF-8. Comes out: their ids as arrays, fast. The only module that knows gigatoken.

tiktoken is the reference, gigatoken reads the same vocabulary and gives the same ids eight times as fast (see
benchmarks/tokenizing.py). It is trusted as far as it was checked: when it is loaded, a sample made to trip it must come
out alike; and a text with a character that this Python's Unicode tables do not have goes to the reference, because the
two libraries' tables are of different years, and a character that only one of them knows for a letter is split in two
ways (4,657 such code points between tiktoken 0.14 and gigatoken 0.10).
"""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import encodings
from pipeline.encodings import END_OF_TEXT, Pattern
from pipeline.tokenizer_json import write_tokenizer_json

_GIGATOKEN_NAMES: dict[Pattern, str] = {"gpt2": "gpt2", "cl100k": "gpt4", "qwen2": "qwen2", "o200k": "o200k"}
# gigatoken 0.10 remembers every piece of text that it has met, without end. Beginning anew after so much text bounds
# that: to 180 MB where every tenth word is a new one, to a few MB in prose. Each beginning costs 0.06 to 0.1 s, for
# GPT-2's ranks and the common words.
RENEW_AFTER_BYTES = 128_000_000
# Beyond this lie rare ideographs and emptiness; texts with them go to the reference, and the table stays small.
_TABLE_SIZE = 0x20000


class Encoder:
    """Encodes texts one at a time; `note` says why the reference does it all, if it does."""

    def __init__(self, ranks: Path, fast: bool = True) -> None:
        """Read a ranks file in tiktoken's form, its pattern beside it; with `fast` false the reference does it all."""
        self._ranks = ranks
        self._pattern = encodings.pattern_of(ranks)
        self.encoding = encodings.load_encoding(ranks)
        self._composes = encodings.PATTERNS[self._pattern] in encodings.COMPOSING
        self.note = ""
        self._as_json: TemporaryDirectory[str] | None = None
        self._fast = self._open() if fast else None
        self._bytes_since_open = 0
        self._known: npt.NDArray[np.bool_] | None = None
        if self._fast is not None and not self._agrees(adversarial_sample()):
            self._fast = None
            self.note = "gigatoken gives other ids than tiktoken, so tiktoken does the work, more slowly"

    def __call__(self, text: bytes) -> npt.NDArray[np.uint32]:
        """Ordinary ids of a text in UTF-8; DataError as `encodings.encode` says."""
        if self._fast is None or not (text.isascii() or self._all_known(text)):
            return encodings.encode(self.encoding, text.decode())
        if self._composes and not text.isascii():
            text = unicodedata.normalize("NFC", text.decode()).encode()
        self._bytes_since_open += len(text)
        if self._bytes_since_open > RENEW_AFTER_BYTES:
            self._fast = None  # or for a moment there would be two
            self._fast, self._bytes_since_open = self._open(), len(text)
        ids: npt.NDArray[np.uint32] = self._fast.encode(text)
        return ids

    def _open(self) -> Any:
        try:
            from gigatoken.gigatoken_rs import BPETokenizer
        except ImportError:
            self.note = "gigatoken is not installed, so tiktoken does the work, more slowly"
            return None
        if self._pattern not in _GIGATOKEN_NAMES:
            self.note = f"gigatoken does not split text as {self._pattern} does, so tiktoken does the work, more slowly"
            return None
        is_llama_3 = self._pattern == "cl100k" and encodings.digest_of_ranks(self._ranks) == encodings.LLAMA_3
        if self._as_json is None and not is_llama_3:
            try:
                # Without special tokens of its own it takes <|endoftext|> in a text for text.
                return BPETokenizer.from_tiktoken(self._ranks, _GIGATOKEN_NAMES[self._pattern], {})
            except BaseException as error:
                # It panics, aloud and under no other class, over a token that no merge makes, as Llama 3 has some.
                if type(error).__name__ != "PanicException":
                    raise
        return BPETokenizer.from_hf(str(self._tokenizer_json()))

    def _tokenizer_json(self) -> Path:
        """The vocabulary as a tokenizer.json, which can say that a whole piece is looked up; kept for the next time."""
        if self._as_json is None:
            self._as_json = TemporaryDirectory(prefix="homegrown-")
            ranks = encodings.read_ranks(self._ranks)
            write_tokenizer_json(ranks, Path(self._as_json.name, "tokenizer.json"), self._pattern, special=False)
        return Path(self._as_json.name, "tokenizer.json")

    def _agrees(self, texts: list[str]) -> bool:
        return all(np.array_equal(self(text.encode()), encodings.encode(self.encoding, text)) for text in texts)

    def _all_known(self, text: bytes) -> bool:
        """Every character is assigned in this Python's Unicode, so that libraries as new as it agree what it is."""
        if self._known is None:
            categories = "".join(map(unicodedata.category, map(chr, range(_TABLE_SIZE)))).encode()
            of_each = np.frombuffer(categories, "S2")
            self._known = np.append((of_each != b"Cn") & (of_each != b"Cs"), False)
        points = np.frombuffer(text.decode().encode("utf-32-le"), np.uint32)
        return bool(self._known[np.minimum(points, _TABLE_SIZE)].all())


def adversarial_sample() -> list[str]:
    """Texts made to trip a tokenizer, the same each time: contractions, white space, numbers, scripts, emoji, code."""
    pieces = [
        *"abcXYZ019 '\"-_.,!?/\\\n\r\t\0\x7f",
        *(
            "  ",
            "    ",
            "\r\n",
            "\n\n",
            "'s",
            "'LL",
            "'re",
            "don't",
            "'ſ",
            END_OF_TEXT,
            "<|endoftext",
            "{}();",
            "==",
            "0x1f",
        ),
        *(
            "é",
            "e\u0301",
            "ß",
            "İ",
            "Ω",
            "ж",
            "العربية",
            "हिन्दी",
            "ไทย",
            "中文",
            "日本語テスト",
            "한국어",
            "ǅ",
            "²",
            "½",
            "Ⅷ",
            "٣",
        ),
        *(
            "🌍",
            "👩\u200d💻",
            "🇩🇪",
            "❤\ufe0f",
            "\u00a0",
            "\u2003",
            "\u2028",
            "\u200b",
            "\ufeff",
            "\ufffd",
            "def ",
            "return ",
            "://",
        ),
    ]
    choose = random.Random(0)
    mixed = ["".join(choose.choices(pieces, k=choose.randint(1, 60))) for _ in range(400)]
    long = ["x" * 3000, "ab" * 3000, " " * 3000 + "x", "\n" * 3000, "1" * 3000, "é" * 3000, "中" * 3000, "-" * 3000]
    return ["", *pieces, *long, *mixed]
