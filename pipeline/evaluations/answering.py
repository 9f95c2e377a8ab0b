"""Goes in: an instructed model and what it is to be asked. Comes out: its answers, and how sure it was of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.digests import digest_of
from pipeline.encodings import lister
from pipeline.instruction_rows import InstructionRow

if TYPE_CHECKING:
    import tiktoken

    from model.gpt import GPT
    from model.templates import PromptTemplate

SHOWN_SAMPLES = 12
_SPARE_TOKENS = 8
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Asking:
    """How a model is asked."""

    model: GPT
    """The model."""
    encoding: tiktoken.Encoding
    """Its vocabulary."""
    template: PromptTemplate
    """What it learned to be asked through."""


def answer(asking: Asking, rows: Sequence[InstructionRow]) -> list[str]:
    """The likeliest answer to each row, without outer spaces; cut a little beyond the longest that is expected."""
    from model.generation import generate

    encode = lister(asking.encoding)
    longest = max(len(encode(row.response)) for row in rows)
    # Prompts of like length stand together, so that little is padded; a row's answer does not depend on the others.
    prompts = [encode(asking.template.prompt(row.instruction, row.input)) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: len(prompts[place]))
    by_place: dict[int, str] = {}
    for first in range(0, len(order), _ROWS_AT_ONCE):
        places = order[first : first + _ROWS_AT_ONCE]
        written = generate(
            asking.model,
            [prompts[place] for place in places],
            max_new_tokens=longest + _SPARE_TOKENS,
            end_id=asking.encoding.eot_token,
        )
        by_place |= {
            place: asking.template.answer(asking.encoding.decode(ids))
            for place, ids in zip(places, written, strict=True)
        }
    return [by_place[place] for place in range(len(rows))]


def mean_nats(
    asking: Asking, rows: Sequence[InstructionRow], answers: Sequence[str], batch_size: int = 32
) -> list[float]:
    """How unlikely the model finds each answer to its row, in nats per token; an empty answer is infinitely so."""
    import torch

    from model.batches import collate
    from model.conversations import encode_pair
    from model.preferences import log_probs

    encode, end_id = lister(asking.encoding), asking.encoding.eot_token
    context = asking.model.config.context_length
    device = asking.model.token_embedding.weight.device
    asking.model.eval()
    nats = [float("inf")] * len(rows)
    places = [place for place, text in enumerate(answers) if text]
    for first in range(0, len(places), batch_size):
        chosen = places[first : first + batch_size]
        examples = [
            encode_pair(encode, asking.template, rows[i].instruction, rows[i].input, answers[i], end_id=end_id)
            for i in chosen
        ]
        fitting = [(i, example) for i, example in zip(chosen, examples, strict=True) if len(example.ids) <= context]
        if not fitting:
            continue
        with torch.no_grad():
            found = log_probs(asking.model, collate([example for _, example in fitting], end_id).to(device))
        for (i, example), log_prob in zip(fitting, found.tolist(), strict=True):
            nats[i] = -log_prob / example.scored()
    return nats


def data_digest(rows: Sequence[InstructionRow]) -> str:
    """The digest of what was asked and expected; figures of other data are not compared."""
    return digest_of([[row.dataset, row.instruction, row.input, row.response] for row in rows])


def shown(
    rows: Sequence[InstructionRow], answers: Sequence[str], right: Sequence[bool] | None = None
) -> list[dict[str, str]]:
    """A few of the answers, evenly chosen, to be read by people."""
    every = max(1, len(rows) // SHOWN_SAMPLES)
    return [
        {
            "prompt": f"{rows[i].instruction}\n{rows[i].input}".strip(),
            "response": answers[i],
            "expected": rows[i].response,
            **({"right": "yes" if right[i] else "no"} if right else {}),
        }
        for i in range(0, len(rows), every)
    ][:SHOWN_SAMPLES]
