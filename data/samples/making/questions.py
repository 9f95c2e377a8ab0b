"""Goes in: the wordings of facts and questions. Comes out: a small base of knowledge, and questions about it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from making.templates import SEED, Row, Wordings, articled, fill, filler_pools


def questions(wordings: Wordings, fillers: Wordings, split: str, count: int) -> Iterator[Row]:
    """Questions of a split with the passage that answers them; a passage may be asked for each of its three facts."""
    random_ = random.Random(f"{SEED} questions {split}")
    pools = filler_pools(fillers, split)
    pools["number"] = [number for number in pools["number"] if 18 <= int(number) < 100]  # an age, among others
    rows = [
        {"question": question, "passage": passage, "answer": answer}
        for kind in wordings
        for subject in pools[kind]
        for passage, asked in [_passage(wordings[kind], kind, subject, pools, split, random_)]
        for question, answer in asked
    ]
    random_.shuffle(rows)
    if len(rows) < count:
        raise ValueError(f"questions: {len(rows)} can be asked in {split}, not {count}; add fillers")
    yield from rows[:count]


def _passage(
    facts: Wordings, kind: str, subject: str, pools: dict[str, list[str]], split: str, random_: random.Random
) -> tuple[str, list[tuple[str, str]]]:
    """A passage about the subject, and what can be asked about it, each with its answer."""
    values = {gap: random_.choice(pool) for gap, pool in pools.items()} | {kind: subject}
    order = random_.sample(list(facts), len(facts))
    passage = " ".join(articled(fill(random_.choice(facts[fact]["facts"][split]), values)) for fact in order)
    asked = [(fill(random_.choice(facts[fact]["asked"][split]), values), values[fact]) for fact in facts]
    return passage, asked
