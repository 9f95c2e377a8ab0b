"""Goes in: the wordings of notices. Comes out: notices of three or four sentences, each with its gist."""

from __future__ import annotations

import random
from collections.abc import Iterator

from making.templates import SEED, Row, Wordings, articled, choose, dealt, fill, filler_pools


def summaries(wordings: Wordings, fillers: Wordings, split: str, count: int) -> Iterator[Row]:
    """The notices of a split as instructions; what matters stands anywhere in them, so the first sentence misses it."""
    random_ = random.Random(f"{SEED} summaries {split}")
    pools = filler_pools(fillers, split)
    kinds = dealt(list(wordings["kinds"]), random_)
    said = {name: dealt(kind[split], random_) for name, kind in wordings["kinds"].items()}
    seen: set[str] = set()
    for _ in range(count):
        instruction = notice = gist = ""
        while not notice or notice.casefold() in seen:
            kind = next(kinds)
            values = {gap: random_.choice(pool) for gap, pool in pools.items()}
            sentences = random_.sample(wordings["around"][split], random_.choice([2, 3]))
            sentences.insert(random_.randint(0, len(sentences)), next(said[kind]))
            instruction = random_.choice(wordings["asked"][split])
            notice = articled(fill(choose(" ".join(sentences), random_), values))
            gist = articled(fill(wordings["kinds"][kind]["gist"], values))
        seen.add(notice.casefold())
        yield {"instruction": instruction, "input": notice, "response": gist}
