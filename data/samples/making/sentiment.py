"""Goes in: the wordings of opinions. Comes out: short opinions, half of them positive, half negative."""

from __future__ import annotations

import random
from collections.abc import Iterator

from making.templates import SEED, Row, Wordings, choose, dealt, fill, pairs

LABELS = ("positive", "negative")


def sentiment(wordings: Wordings, split: str, count: int) -> Iterator[Row]:
    """The opinions of a split, shuffled; half have either label."""
    random_ = random.Random(f"{SEED} sentiment {split}")
    pools = {kind: pairs(table, split) for kind, table in wordings.items() if "second" in table}
    decks = {label: dealt(wordings[label][split], random_) for label in LABELS}
    labels = [LABELS[number % 2] for number in range(count)]
    random_.shuffle(labels)
    seen: set[str] = set()
    for label in labels:
        text = ""
        while not text or text.casefold() in seen:
            values = {kind: random_.choice(pool) for kind, pool in pools.items()}
            text = fill(choose(next(decks[label]), random_), values)
            text = text[0].upper() + text[1:]
        seen.add(text.casefold())
        yield {"text": text, "label": label}
