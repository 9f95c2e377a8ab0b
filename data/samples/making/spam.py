"""Goes in: the wordings of spam and ham. Comes out: short messages of both, typed as thumbs type."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from making.templates import SEED, Row, Wordings, choose, dealt, fill, words

SPAM_SHARE = 0.45

_GREETED = re.compile(r"(hi|hiya|hello|hey|dear|good|morning|\{name})\b", re.IGNORECASE)
_CASUAL = {
    "you": "u", "your": "ur", "you're": "ur", "are": "r", "see": "c", "please": "pls", "tomorrow": "2moro", "to": "2",
    "for": "4", "great": "gr8", "before": "b4", "text": "txt", "message": "msg", "tonight": "2nite", "because": "cos",
    "thanks": "thx", "and": "&", "with": "w", "what": "wot", "about": "abt", "later": "l8r", "at": "@", "be": "b",
}  # fmt: skip


def messages(wordings: Wordings, split: str, count: int) -> Iterator[Row]:
    """The labelled messages of a split, ham and spam shuffled."""
    random_ = random.Random(f"{SEED} messages {split}")
    pools = {kind: words(table[split]) for kind, table in wordings.items() if isinstance(table[split], str)}
    decks = {label: dealt(wordings[label][split], random_) for label in ("ham", "spam")}
    spam_rows = round(count * SPAM_SHARE)
    labels = ["spam"] * spam_rows + ["ham"] * (count - spam_rows)
    random_.shuffle(labels)
    seen: set[str] = set()
    for label in labels:
        text = ""
        while not text or text.casefold() in seen:
            text = _message(next(decks[label]), wordings, pools, split, random_)
            text = _as_typed(text, shouting=0.12 if label == "spam" else 0.04, random_=random_)
        seen.add(text.casefold())
        yield {"text": text, "label": label}


def _message(body: str, wordings: Wordings, pools: dict[str, list[str]], split: str, random_: random.Random) -> str:
    opening = closing = ""
    if random_.random() < 0.3 and not _GREETED.match(body):
        opening = random_.choice(wordings["openings"][split])
    if random_.random() < 0.2:
        closing = random_.choice(wordings["closings"][split])
    values = {kind: random_.choice(pool) for kind, pool in pools.items()}
    values["phone"] = _phone(split, random_)
    values["link"] = _link(values["site"], values["brand"], random_)
    return fill(choose(opening + body + closing, random_), values)


def _phone(split: str, random_: random.Random) -> str:
    """A number that no one has: from the ranges that Ofcom (GB) and the NANPA (US) keep for fiction."""
    last_digit = random_.choice({"train": "0123456", "validation": "7", "test": "89"}[split])
    area = random_.choice(["07700 900", "020 7946 0", "08081 570", "555-01"])
    return area + "".join(random_.choice("0123456789") for _ in range(1 if area == "555-01" else 2)) + last_digit


def _link(site: str, brand: str, random_: random.Random) -> str:
    """A link to a domain that no one has (RFC 2606: .example, .test and example.com)."""
    host = random_.choice([f"{site}.example.com", f"www.{site}.test", f"{brand.lower().replace(' ', '-')}.example"])
    return random_.choice(["http://", "https://", ""]) + host + random_.choice(["", "", f"/{site}", "/a"])


def _as_typed(text: str, *, shouting: float, random_: random.Random) -> str:
    """What a thumb makes of a message: short forms, no capitals, a slip, a word in capitals; links stay as they are."""
    words = text.split(" ")
    if random_.random() < 0.35:
        words = [_casual(word, random_) for word in words]
    if random_.random() < 0.12:
        at = random_.randrange(len(words))
        if words[at].isalpha() and len(words[at]) > 4:
            slip = random_.randrange(1, len(words[at]) - 2)
            word = words[at]
            words[at] = word[:slip] + word[slip + 1] + word[slip] + word[slip + 2 :]
    words = [word.upper() if word.isalpha() and random_.random() < shouting else word for word in words]
    text = " ".join(words)
    return text.rstrip(".") if random_.random() < 0.3 else text


def _casual(word: str, random_: random.Random) -> str:
    if "/" in word or ".test" in word or ".example" in word:
        return word
    bare = word.lower().rstrip(".,!?")
    if bare in _CASUAL and random_.random() < 0.6:
        return _CASUAL[bare] + word[len(bare) :]
    return word.lower().replace("'", "")
