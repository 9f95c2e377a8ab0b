"""Goes in: a task's examples. Comes out: what a training is told of them: batches, an objective, what to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigurationError
from pipeline.held_out import HeldOut
from pipeline.manifest import Manifest
from pipeline.shards import map_split, read_index

if TYPE_CHECKING:
    import torch

    from model.batches import Batch, Example
    from model.gpt import GPT
    from model.preferences import Pair
    from model.training import Objective

    Watch = Callable[[GPT, int], Mapping[str, float]]


VALIDATION_WINDOWS = 32
"""Windows of held-out documents that are looked at while documents are learned; each scores half a context."""


@dataclass(frozen=True)
class Lesson:
    """One task, ready to be learned."""

    batches: Callable[[int], Batch]
    """The batch of each position."""
    batches_per_epoch: int
    """After which every example was seen once."""
    watch: Watch
    """How well the validation examples go, by name."""
    objective: Objective | None = None
    """What to make small, where it is not the model's own loss."""


@dataclass(frozen=True)
class Batching:
    """How examples are put together, whatever the task."""

    batch_size: int
    """Examples in one update."""
    rows_at_once: int
    """Examples in one pass, also where nothing is learned; never more than in an update."""
    seed: int
    """Decides their order."""
    end_id: int
    """End-of-text, which fills short rows."""


def responses(
    training: Sequence[Example],
    validation: Sequence[Example],
    batching: Batching,
    *,
    packing: Literal["padded", "packed"] = "padded",
    context_length: int,
    objective: Objective | None = None,
) -> Lesson:
    """Learn every target of the examples, one to a row or several."""
    from model.batches import Examples
    from model.packing import PackedExamples

    batches: Examples | PackedExamples
    if packing == "packed":
        batches = PackedExamples(training, context_length, batching.batch_size, batching.seed, batching.end_id)
    else:
        batches = Examples(training, batching.batch_size, batching.seed, batching.end_id)

    def watch(model: GPT, _step: int) -> Mapping[str, float]:
        import torch

        held_out = Examples(validation, batching.rows_at_once, 0, batching.end_id)
        nats, targets = 0.0, 0
        device = model.token_embedding.weight.device
        model.eval()
        with torch.no_grad():
            for position in range(len(held_out)):
                batch = held_out(position).to(device)
                nats += float(model.loss(batch.ids_BT, batch.targets, reduction="sum"))
                targets += batch.scored()
        model.train()
        loss = nats / max(1, targets)
        return {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700))}

    return Lesson(batches, len(batches), watch, objective)


def classes(
    training: Sequence[Example],
    validation: Sequence[Example],
    batching: Batching,
    *,
    n_classes: int,
    weights: Literal["none", "balanced"],
) -> Lesson:
    """Learn the label of every example; with `balanced` a rare class weighs as much as a frequent one."""
    from model.batches import Examples
    from model.objectives import balanced_weights, weighted_classes
    from model.scoring import classification_scores, predict_classes

    def labels(examples: Sequence[Example]) -> list[int]:
        return [int(example.targets) for example in examples]  # type: ignore[arg-type]

    def watch(model: GPT, _step: int) -> Mapping[str, float]:
        logits = predict_classes(model, [example.ids for example in validation], padding_id=batching.end_id)
        scores = classification_scores(logits, labels(validation))
        return {"validation_loss": scores.loss, "validation_accuracy": scores.accuracy}

    objective = None
    if weights == "balanced":
        objective = weighted_classes(balanced_weights(labels(training), n_classes))
    batches = Examples(training, batching.batch_size, batching.seed, batching.end_id)
    return Lesson(batches, len(batches), watch, objective)


def preferences(
    training: Sequence[Pair],
    validation: Sequence[Pair],
    batching: Batching,
    *,
    model: GPT,
    device: torch.device,
    beta: float,
) -> Lesson:
    """Learn to prefer the chosen responses, more than `model` does as it stands; it reads them all on the device."""
    from model.preferences import Pairs, preference_scores, preferring, reference_log_probs

    def paired(pairs: Sequence[Pair], batch_size: int, seed: int) -> Pairs:
        reference = reference_log_probs(model, pairs, batching.rows_at_once, batching.end_id)
        return Pairs(pairs, reference, batch_size, seed, batching.end_id)

    home = model.token_embedding.weight.device
    model.to(device)
    batches = paired(training, batching.batch_size, batching.seed)
    held_out = paired(validation, batching.rows_at_once, 0)
    model.to(home)  # the memory is wanted for what learns

    def watch(model: GPT, _step: int) -> Mapping[str, float]:
        scores = preference_scores(model, held_out, beta)
        return {
            "validation_loss": scores.loss,
            "validation_accuracy": scores.accuracy,
            "validation_margin": scores.margin,
        }

    return Lesson(batches, len(batches), watch, preferring(beta))


def documents(
    tokens: Path, manifest: Manifest, sources: Sequence[str], batching: Batching, *, context_length: int
) -> tuple[Lesson, list[str]]:
    """Go on learning from the documents of the sources named, or of all; the sources come back too."""
    from model.batches import TokenWindows
    from model.mixtures import Pieces

    index = read_index(tokens, "train", ["source", "first_token", "n_tokens"])
    known = sorted(index["source"].unique().to_pylist())
    if unknown := [name for name in sources if name not in known]:
        raise ConfigurationError(
            f"finetune: no document is of the source {unknown[0]!r}, which `datasets` names; known: {', '.join(known)}"
        )
    wanted = sorted(sources or known)
    rows = index.filter(pc.is_in(index["source"], pa.array(wanted)))

    train = map_split(tokens, "train", manifest.facts)
    pieces = Pieces(train, rows["first_token"].to_numpy(), rows["n_tokens"].to_numpy())
    windows = TokenWindows(pieces, context_length, batching.batch_size, batching.seed)
    held_out = HeldOut(tokens, manifest, windows=VALIDATION_WINDOWS, sources=wanted)

    def watch(model: GPT, _step: int) -> Mapping[str, float]:
        found = held_out.look(model)
        return {"validation_loss": found["validation_loss"], "validation_perplexity": found["perplexity"]}

    return Lesson(windows, -(-windows.windows_per_epoch // batching.batch_size), watch), wanted
