"""Goes in: a small lexicon and the order of words. Comes out: sentences in English and in German.

German articles and endings follow the noun's gender, its case, and whether the article is definite; all persons are
subjects and all things objects, so the nominative and the accusative are all it takes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from making.templates import SEED, Row, Wordings, dealt, fill, pairs

LANGUAGES = ("English", "German")

# Gender → (article, ending of the adjective), definite and indefinite.
_NOMINATIVE = {
    "m": (("der", "e"), ("ein", "er")),
    "f": (("die", "e"), ("eine", "e")),
    "n": (("das", "e"), ("ein", "es")),
}
_ACCUSATIVE = {**_NOMINATIVE, "m": (("den", "en"), ("einen", "en"))}


def translations(wordings: Wordings, split: str, count: int) -> Iterator[Row]:
    """The sentences of a split, each in both languages."""
    random_ = random.Random(f"{SEED} translations {split}")
    persons, things = pairs(wordings["person"], split), pairs(wordings["thing"], split)
    verbs, places, times = (_listed(wordings[name]["list"]) for name in ("verbs", "places", "times"))
    orders = dealt(wordings["orders"][split], random_)
    seen: set[str] = set()
    for _ in range(count):
        source = target = ""
        while not source or source.casefold() in seen:
            verb, place, time = random_.choice(verbs), random_.choice(places), random_.choice(times)
            first, second = random_.sample(things, 2)
            phrases = {
                "subject": phrase(random_.choice(persons), _NOMINATIVE, definite=random_.random() < 0.7),
                "object": phrase(first, _ACCUSATIVE, definite=random_.random() < 0.4),
                "second": phrase(second, _ACCUSATIVE, definite=random_.random() < 0.4),
                "verb": (verb[0], verb[2]),
                "ask": (verb[1], ""),
                "place": (place[0], place[1]),
                "time": (time[0], time[1]),
            }
            source, target = (
                fill(order, {gap: both[language] for gap, both in phrases.items()})
                for language, order in enumerate(next(orders).split("="))
            )
        seen.add(source.casefold())
        yield {
            "source_language": LANGUAGES[0],
            "target_language": LANGUAGES[1],
            "source": source[0].upper() + source[1:],
            "target": target[0].upper() + target[1:],
        }


def phrase(pair: str, case: dict[str, tuple[tuple[str, str], tuple[str, str]]], *, definite: bool) -> tuple[str, str]:
    """A pair of the lexicon ("old=alt key=Schlüssel:m") with its article in both languages."""
    adjective, noun = (word.split("=") for word in pair.split())
    german, gender = noun[1].split(":")
    article, ending = case[gender][0 if definite else 1]
    indefinite = "an" if adjective[0][0] in "aeiou" else "a"
    return (
        f"{'the' if definite else indefinite} {adjective[0]} {noun[0]}",
        f"{article} {adjective[1]}{ending} {german}",
    )


def _listed(entries: str) -> list[list[str]]:
    return [entry.split("=") for entry in entries.replace("\n", "").split("|")]
