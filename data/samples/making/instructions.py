"""Goes in: the wordings of small tasks, and what fills them. Comes out: instructions with the one right response."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from making.templates import SEED, Row, Wordings, articled, choose, dealt, fill, filler_pools, in_shares

_DOMAINS = ("example.com", "example.org", "example.net", "mail.example", "post.test")


def instructions(wordings: Wordings, fillers: Wordings, split: str, count: int) -> Iterator[Row]:
    """The instruction pairs of a split, as many for each task as its share says, shuffled."""
    random_ = random.Random(f"{SEED} instructions {split}")
    pools = filler_pools(fillers, split)
    tasks = wordings["tasks"]
    decks = {name: dealt(task[split], random_) for name, task in tasks.items()}
    order = in_shares({name: task.get("share", 1.0) for name, task in tasks.items()}, count)
    random_.shuffle(order)
    seen: set[str] = set()
    for name in order:
        row: tuple[str, ...] = ()
        while not row or "\0".join(row).casefold() in seen:
            values = _values(pools, random_)
            template = next(decks[name])
            input_template = _INPUTS.get(name, _from_task)(wordings, name, split, values, random_)
            answer = fill(tasks[name]["answer"], values)
            about = articled(fill(choose(input_template, random_), values))
            row = (fill(choose(template, random_), values), about, answer)
        seen.add("\0".join(row).casefold())
        yield dict(zip(("instruction", "input", "response"), row, strict=True))


def _values(pools: dict[str, list[str]], random_: random.Random) -> dict[str, str]:
    """One filler for every gap."""
    values = {kind: random_.choice(pool) for kind, pool in pools.items()}
    values["a"], values["b"], values["c"] = random_.sample(pools["thing"], 3)
    values["word"] = random_.choice(pools["thing"])
    values["email"] = f"{values['name'].lower().replace(' ', '.')}@{random_.choice(_DOMAINS)}"
    return values


def _from_task(wordings: Wordings, task: str, split: str, values: dict[str, str], random_: random.Random) -> str:
    """The input by the task's own wordings, by the sentences if it asks for one, else none."""
    if wordings["tasks"][task].get("sentence"):
        gaps = re.findall(r"\{\w+}", wordings["tasks"][task]["answer"])
        return random_.choice([s for s in wordings["sentences"][split] if all(gap in s for gap in gaps)])
    return random_.choice(wordings["tasks"][task].get(f"{split}_inputs", [""]))


def _from_lists(wordings: Wordings, task: str, split: str, values: dict[str, str], random_: random.Random) -> str:
    return random_.choice(wordings["lists"][split])


def _kind(wordings: Wordings, task: str, split: str, values: dict[str, str], random_: random.Random) -> str:
    values["kind"] = random_.choice(["question", "statement", "exclamation"])
    return random_.choice(wordings["kinds"][split][values["kind"]])


def _format(wordings: Wordings, task: str, split: str, values: dict[str, str], random_: random.Random) -> str:
    number, word = values["number"], values["word"].replace(" ", "-")
    minutes, day = f"{int(number) % 60:02d}", str(int(number) % 28 + 1)
    shapes = {
        "e-mail address": [values["email"]],
        "web link": [f"https://www.example.com/{word}", f"www.{word}.test", f"https://{word}.example.org"],
        "time": [f"{random_.randint(1, 12)}:{minutes}", f"{random_.randint(1, 12)}:{minutes} pm"],
        "price": [f"${number}", f"{number} euros", f"{number} dollars", f"£{number}"],
        "phone number": [f"555-01{int(number) % 100:02d}", f"+1 555 01{int(number) % 100:02d}"],
        "date": [f"{day} {values['month']}", f"{values['month']} {day}"],
    }
    values["format"] = random_.choice(list(shapes))
    return random_.choice(shapes[values["format"]])


_INPUTS: dict[str, Callable[[Wordings, str, str, dict[str, str], random.Random], str]] = {
    "first": _from_lists, "middle": _from_lists, "last": _from_lists, "list": _from_lists,
    "kind": _kind, "format": _format,
}  # fmt: skip
