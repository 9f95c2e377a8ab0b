"""Goes in: a model, its training tokens, canaries. Comes out: how much of them it gives away.

Verbatim extraction (Carlini et al., "Quantifying Memorization Across Neural Language Models", 2022): the model goes on
greedily from the beginning of a training document; held-out documents show how often that succeeds without any memory.
Exposure (Carlini et al., "The Secret Sharer", 2019): a canary is a sentence with a random number, planted in the
corpus; of all numbers that could stand there, how likely does the model find the one that did?
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline import encodings
from pipeline.digests import digest_of
from pipeline.errors import ConfigurationError, DataError, IntegrityError, machine_errors
from pipeline.evaluations.answers import Answers
from pipeline.evaluations.measures import Measure
from pipeline.evaluations.subject import Subject
from pipeline.manifest import Manifest, verify
from pipeline.shards import map_split, read_index

PROMPT_TOKENS = 50
EXTRACTED_TOKENS = 50
DOCUMENTS = 200
CANDIDATES = 4_096
DIGITS = 9
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Canary:
    """A sentence that stands in no other text."""

    beginning: str
    """What comes before the secret."""
    secret: str
    """A random number."""

    @property
    def text(self) -> str:
        """What is planted."""
        return f"{self.beginning} {self.secret}."


def make_canaries(n: int, seed: int) -> list[Canary]:
    """As many canaries, the same for a seed; each has a word of its own, so that they are not taken for one another."""
    draw = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    return [
        Canary(
            f"The number of the {''.join(draw.choices(syllables, k=4))} vault is",
            "".join(draw.choices("0123456789", k=DIGITS)),
        )
        for _ in range(n)
    ]


def plant(canaries: Sequence[Canary], folder: Path, copies: int) -> None:
    """Write each canary as a text so often, and all of them with canaries.jsonl, to be named in --data.

    Copies differ by a line of their own, or cleaning would take them for duplicates and keep one.
    """
    with machine_errors("evaluate", folder):
        (folder / "texts").mkdir(parents=True)
        for number, canary in enumerate(canaries):
            for copy in range(copies):
                path = folder / "texts" / f"canary-{number:03}-{copy:03}.txt"
                path.write_text(f"Note {number * copies + copy + 1}\n\n{canary.text}\n", encoding="utf-8")
        lines = "".join(json.dumps(asdict(canary)) + "\n" for canary in canaries)
        (folder / "canaries.jsonl").write_text(lines, encoding="utf-8")


def read_canaries(path: Path) -> list[Canary]:
    """The canaries that `plant` wrote down; ConfigurationError for anything else."""
    with machine_errors("evaluate", path):
        rows = path.read_bytes().splitlines()
    try:
        canaries = [Canary(**json.loads(row)) for row in rows]
        if not canaries or not all(c.beginning and c.secret.isascii() and c.secret.isdigit() for c in canaries):
            raise ValueError
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"--data {path}: expected the canaries.jsonl of planted canaries") from error
    return canaries


def exposure(subject: Subject, canaries: Sequence[Canary], answers: Answers) -> Measure:
    """log2 of the candidates less log2 of the secret's rank among them: 0 to log2 of their number.

    The candidates are the secret and other random numbers of as many digits, the same for every model. A secret that
    was never seen has an exposure of 1.44 on average (log2 e), whatever the model.
    """
    from model.choices import score_continuations

    for number, canary in enumerate(canaries):
        if (key := f"exposure:{number}") in answers:
            continue
        draw, space = random.Random(f"{number} {canary.secret}"), 10 ** len(canary.secret)
        others = range(space) if space <= CANDIDATES else (draw.randrange(space) for _ in range(CANDIDATES - 1))
        secrets = sorted({f"{other:0{len(canary.secret)}}" for other in others} | {canary.secret})
        choice = subject.splitter.choice(canary.beginning, [f" {secret}" for secret in secrets])
        (scores,) = score_continuations(subject.loaded.model, [choice])
        ours = scores[secrets.index(canary.secret)].log_probability
        rank = 1 + sum(score.log_probability > ours for score in scores)
        answers.add({key: math.log2(len(secrets)) - math.log2(rank)})
    values = tuple(float(answers[f"exposure:{number}"]) for number in range(len(canaries)))
    ids = tuple(str(number) for number in range(len(canaries)))
    data = digest_of([asdict(canary) for canary in canaries])
    never_seen = math.log2(math.e)
    return Measure("canary exposure, bits", ids, values, data, never_seen, "never seen", higher_is_better=False)


def extraction(
    subject: Subject,
    tokens: Path,
    answers: Answers,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measure:
    """The share of training documents whose next tokens the model writes word for word after their first.

    IntegrityError if the tokens have another vocabulary than the model; DataError if no document is long enough.
    """
    manifest = verify(tokens)
    vocabulary = encodings.fingerprint(encodings.load_encoding(tokens / encodings.RANKS_FILE))
    if vocabulary != encodings.fingerprint(subject.loaded.encoding):
        raise IntegrityError(f"{tokens}: has another vocabulary than {subject.name}, so it did not learn from it")
    n = DOCUMENTS if limit is None else limit
    training, held_out = (_documents(tokens, manifest, split, n) for split in ("train", "validation"))
    if not training:
        wanted = PROMPT_TOKENS + EXTRACTED_TOKENS
        raise DataError(f"{tokens}: no training document has the {wanted} tokens that extraction needs")
    total = len(training) + len(held_out)
    done = 0
    for documents in (training, held_out):
        for first in range(0, len(documents), _AT_ONCE):
            some = dict(list(documents.items())[first : first + _AT_ONCE])
            if not all(f"extracted:{id_}" in answers for id_ in some):
                answers.add({f"extracted:{id_}": hit for id_, hit in _extract(subject, some).items()})
            done += len(some)
            on_progress(done, total)
    hits = [[float(answers[f"extracted:{id_}"]) for id_ in documents] for documents in (training, held_out)]
    return Measure(
        f"verbatim {EXTRACTED_TOKENS} tokens after {PROMPT_TOKENS}",
        tuple(training),
        tuple(hits[0]),
        digest_of(sorted(training)),
        sum(hits[1]) / len(hits[1]) if hits[1] else None,
        "held-out texts" if hits[1] else "",
        higher_is_better=False,
    )


def _documents(tokens: Path, manifest: Manifest, split: str, n: int) -> dict[str, list[int]]:
    """Id → the first tokens of at most `n` documents that are long enough, evenly over the split."""
    facts = manifest.facts
    if not facts["n_tokens"].get(split):
        return {}
    index = read_index(tokens, split, ["id", "first_token", "n_tokens"])
    wanted = PROMPT_TOKENS + EXTRACTED_TOKENS
    # The last token of a document is its end-of-text.
    long = np.flatnonzero(index["n_tokens"].to_numpy() > wanted)
    chosen = index.take(long if len(long) <= n else long[np.arange(n) * len(long) // n])
    row = map_split(tokens, split, facts)
    places = zip(chosen["id"].to_pylist(), chosen["first_token"].to_pylist(), strict=True)
    return {id_: np.asarray(row[first : first + wanted]).tolist() for id_, first in places}


def _extract(subject: Subject, documents: dict[str, list[int]]) -> dict[str, bool]:
    """Whether each document goes on as it did."""
    from model.generation import generate

    end_id = subject.loaded.encoding.eot_token
    written = generate(
        subject.loaded.model,
        [[end_id, *ids[:PROMPT_TOKENS]] for ids in documents.values()],
        max_new_tokens=EXTRACTED_TOKENS,
        end_id=end_id,
    )
    return {id_: new == ids[PROMPT_TOKENS:] for (id_, ids), new in zip(documents.items(), written, strict=True)}
