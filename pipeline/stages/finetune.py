"""Goes in: a model and examples of one task. Comes out: a model for that task, and the curve of its learning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import lessons, task_examples
from pipeline.digests import digest_of
from pipeline.encodings import RANKS_FILE, load_encoding
from pipeline.errors import ConfigurationError
from pipeline.forgetting import as_language_model, bits_per_byte
from pipeline.import_closure import code_of
from pipeline.manifest import Manifest, commit, verify
from pipeline.params import Compute
from pipeline.pictures import draw_curves
from pipeline.processor import fits_a_half, processor
from pipeline.published import published_config, published_model, require_digest, require_vocabulary
from pipeline.report import Report
from pipeline.tables import write_csv
from pipeline.training_run import SCRATCH, device_of, model_errors, run_training

if TYPE_CHECKING:
    import torch

    from model.gpt import GPT, GPTConfig
    from model.training import Objective, TrainingConfig
    from pipeline.lessons import Lesson

READS = {"start": "data/checkpoints/${start}", "tokens": "data/tokens", "examples": "data/examples/clean"}
WRITES = {"checkpoint": "data/checkpoints/${name}"}

CURVES = ("train_loss", "validation_loss")
LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


@dataclass(frozen=True)
class Params:
    """One fine-tuned model: its task, and how it learns."""

    start: str
    """The model that it starts from: base, or another entry."""
    task: Literal["instructions", "classification", "preferences", "language-model"]
    """instructions: learn the responses. classification: a head on the last token learns the labels. preferences:
    prefer the better of two responses (DPO). language-model: go on learning from documents."""
    template: Literal["alpaca", "chatml", "plain"] | dict[str, str]
    """How turns become text: a name, or the parts themselves (see model/templates.py); travels with the model.
    Classification and language-model do not use it."""
    epochs: int
    """Times that every training example is seen."""
    batch_size: int
    """Examples in one update: of preferences, pairs; of packed ones and documents, rows of a whole context."""
    optimizer: Literal["muon", "adamw"]
    """Muon for the blocks' matrices with AdamW for the rest, or AdamW alone."""
    learning_rate: float
    """AdamW's peak rate."""
    muon_learning_rate: float
    """Muon's peak rate."""
    weight_decay: float
    """Pull of the matrices towards zero."""
    warmup_fraction: float
    """Share of the updates in which the rates climb from zero."""
    trainable: Literal["all", "last_block", "head"]
    """Which weights move."""
    precision: Literal["auto", "float32", "bfloat16"]
    """auto takes bfloat16 where the hardware multiplies it."""
    seed: int
    """Decides the head's and the adapters' first weights, the order of the examples, and what balance leaves out."""
    rows_at_once: int = 0
    """Examples that one pass takes, if fewer than an update's; less memory and more time, and the same but for
    rounding. 0 takes all."""
    patience: int = 0
    """Epochs without a lower validation loss after which training ends; the model is the best epoch's. 0 never does."""
    from_scratch: bool = False
    """Begin with random weights in the start's shape, to see what its training is worth to this task."""
    datasets: tuple[str, ...] = ()
    """The data sets to learn from; none named means every one of the task's kinds. Of documents, their sources."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class weighs in the loss inversely to how often it occurs."""
    balance: bool = False
    """Leave out messages of every class but the smallest until all are as large, in training and in validation."""
    packing: Literal["padded", "packed"] = "padded"
    """padded: an instruction to a row. packed: as many as fit, which do not see one another."""
    lora_rank: int = 0
    """Width of the adapters beside the matrices, which alone learn then (LoRA); 0 has the matrices themselves learn."""
    lora_alpha: float = 16.0
    """What the adapters add is multiplied by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """The matrices with adapters; a classifier may name its head too, which otherwise learns whole."""
    beta: float = 0.1
    """How dearly preferences pay for leaving the model they started from."""
    teacher: str | None = None
    """A folder with an exported or published model of the same vocabulary, whose choices are learned too."""
    teacher_sha256: str | None = None
    """Digest of the teacher; where it is missing the stage says what it is. DVC watches this, not the folder."""
    teacher_share: float = 0.5
    """How much of the loss is the teacher's; the rest is that of the examples."""
    temperature: float = 2.0
    """Softens what teacher and pupil would choose, before they are compared."""

    def __post_init__(self) -> None:
        from model.ranges import require_ranges
        from model.templates import template_of

        template_of(self.template)
        require_ranges(vars(self))
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be at least 1")
        if self.rows_at_once < 0:
            raise ValueError("rows_at_once must be 0 or more")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError("warmup_fraction must lie between 0 and 1")
        if self.lora_rank < 0 or self.lora_alpha <= 0 or self.beta <= 0:
            raise ValueError("lora_rank must be 0 or more, lora_alpha and beta above 0")
        if self.lora_rank and self.trainable != "all":
            raise ValueError(f"trainable is {self.trainable}, but with a lora_rank only adapters move; set it to all")
        if self.from_scratch and (self.lora_rank or self.trainable != "all" or self.task == "preferences"):
            raise ValueError("from_scratch needs all weights to learn (trainable: all, lora_rank: 0) from examples")
        if not 0 < self.teacher_share <= 1 or self.temperature <= 0:
            raise ValueError("teacher_share must lie above 0 and at most at 1, temperature above 0")
        if self.teacher and self.task not in ("instructions", "language-model"):
            raise ValueError(f"a teacher teaches instructions and documents, but task is {self.task}")
        if self.task != "classification" and (self.balance or self.class_weights != "none"):
            raise ValueError(f"balance and class_weights are for classification, but task is {self.task}")
        if self.task != "instructions" and self.packing != "padded":
            raise ValueError(f"packing is for instructions, but task is {self.task}")


def run(
    params: Params,
    *,
    start: Path,
    tokens: Path,
    examples: Path,
    checkpoint: Path,
    compute: Compute,
    name: str,
    report: Report,
) -> None:
    """Fine-tune the model at `start` for `params.epochs`, resuming where an earlier run was stopped."""
    import torch

    from model.checkpoint import load_model, save_model
    from model.gpt import GPT
    from model.lora import adapt

    inputs = {"start": verify(start), "tokens": verify(tokens), "examples": verify(examples)}
    digests = {key: manifest.digest for key, manifest in inputs.items()}
    label = f"finetune@{name}"
    device = device_of(compute)
    small = fits_a_half(int(inputs["start"].facts["n_parameters"]), device.type, compute) and not params.teacher
    with model_errors(label), processor(report, compute, half=small) as threads:
        torch.set_num_threads(threads)
        torch.manual_seed(params.seed)
        before = load_model(start)
        if before.config.n_classes:
            raise ConfigurationError(f"{label}: {start} is a classifier, which nothing starts from; choose another")
        lesson, facts = prepare(params, before, device, tokens, inputs["tokens"], examples, report)
        if params.teacher:
            lesson = replace(lesson, objective=taught(params, before.config, tokens, f"finetunes.{name}"))
        model = GPT(before.config) if params.from_scratch else load_model(start)
        if facts["labels"]:
            model = model.with_classifier(len(facts["labels"]))
        if params.lora_rank:
            added = adapt(model, rank=params.lora_rank, alpha=params.lora_alpha, targets=params.lora_targets)
            report.note(f"adapters of {added:,} parameters learn in place of the matrices beside them")
        trained = run_training(
            label,
            model,
            lesson.batches,
            training_config(params, lesson.batches_per_epoch),
            compute=compute,
            identity={"params": digest_of(asdict(params)), "inputs": digest_of(digests)},
            code=code_of(__name__),
            evaluate=lesson.watch,
            evaluate_every=lesson.batches_per_epoch,
            report=report,
            patience=params.patience,
            objective=lesson.objective,
        )
        forgetting = None
        if not params.from_scratch:
            after = as_language_model(trained.model, before)
            forgetting = {
                "bits_per_byte_before": bits_per_byte(before, tokens, inputs["tokens"]),
                "bits_per_byte_after": bits_per_byte(after, tokens, inputs["tokens"]),
            }
            report.metrics(forgetting)
            report.note("held-out text takes {:.3f} bits per byte before and {:.3f} after".format(*forgetting.values()))
    with commit(checkpoint, "checkpoint", params=params, inputs=digests) as draft:
        history = trained.history
        save_model(draft.path, trained.model)
        write_csv(history, ("step", "learning_rate", "train_loss"), draft.path / "training.csv")
        watched = sorted({key for row in history for key in row if key.startswith("validation_")} - {CURVES[1]})
        write_csv(history, ("step", CURVES[1], *watched), draft.path / "validation.csv")
        draft.facts |= {
            **facts,
            "n_parameters": trained.model.config.parameter_count(),
            "forgetting": forgetting,
            "vocabulary_fingerprint": inputs["tokens"].facts["vocabulary_fingerprint"],
            **trained.facts,
        }
    picture = SCRATCH / f"{label}-loss.png"
    draw_curves(history, CURVES, f"Fine-tuning {name}: nats per target", picture)
    report.keep(picture)


def prepare(
    params: Params, model: GPT, device: torch.device, tokens: Path, manifest: Manifest, examples: Path, report: Report
) -> tuple[Lesson, dict[str, Any]]:
    """The task's examples as a lesson for the model, and what the manifest is to say of them."""
    from model.templates import template_of

    template = template_of(params.template)
    encoding = load_encoding(tokens / RANKS_FILE)
    context_length = model.config.context_length
    at_once = min(params.rows_at_once or params.batch_size, params.batch_size)
    batching = lessons.Batching(
        batch_size=params.batch_size, rows_at_once=at_once, seed=params.seed, end_id=encoding.eot_token
    )
    talks = params.task in ("instructions", "preferences")
    facts: dict[str, Any] = {
        "task": params.task,
        "template": template.name if talks else None,
        "template_parts": template.to_dict() if talks else None,
    }
    if params.task == "language-model":
        lesson, sources = lessons.documents(tokens, manifest, params.datasets, batching, context_length=context_length)
        return lesson, {**facts, "datasets": sources, "labels": []}
    reading = task_examples.Reading(examples, params.datasets, encoding, context_length, template)
    task: task_examples.Task[Any]
    if params.task == "classification":
        task = task_examples.read_messages(reading, balance=params.balance, seed=params.seed)
        lesson = lessons.classes(
            task.training, task.validation, batching, n_classes=len(task.labels), weights=params.class_weights
        )
    elif params.task == "preferences":
        task = task_examples.read_preferences(reading)
        lesson = lessons.preferences(
            task.training, task.validation, batching, model=model, device=device, beta=params.beta
        )
    else:
        task = task_examples.read_responses(reading)
        lesson = lessons.responses(
            task.training, task.validation, batching, packing=params.packing, context_length=context_length
        )
    left_out = {
        "did not fit into the context and were left out": task.counts["too_long"],
        "were cut at the end of the context": task.counts["truncated"],
        "had no response and were left out": task.counts["without_response"],
    }
    report.note(
        f"{len(task.training):,} training and {len(task.validation):,} validation examples"
        + "".join(f"; {count:,} {what}" for what, count in left_out.items() if count)
    )
    return lesson, {
        **facts,
        "datasets": task.datasets,
        "labels": list(task.labels),
        "training_examples": len(task.training),
        **task.counts,
    }


def taught(params: Params, pupil: GPTConfig, tokens: Path, where: str) -> Objective:
    """The objective of a pupil of this shape under the teacher, once the teacher is known to be the one meant."""
    from model.objectives import distilled

    assert params.teacher is not None
    folder = Path(params.teacher)
    require_digest(folder, params.teacher_sha256, f"{where}.teacher_sha256")
    require_vocabulary(folder, load_encoding(tokens / RANKS_FILE))
    theirs = published_config(folder)
    if theirs.context_length < pupil.context_length:
        raise ConfigurationError(
            f"{where}.teacher: {folder} sees {theirs.context_length:,} tokens at once, its pupil "
            f"{pupil.context_length:,}; choose another teacher"
        )
    settled = replace(theirs, vocab_size=pupil.vocab_size, context_length=pupil.context_length)
    return distilled(published_model(folder, settled), params.temperature, params.teacher_share)


def training_config(params: Params, batches_per_epoch: int) -> TrainingConfig:
    """The part of the params that the training loop is told.

    The rates fall in a straight line from the end of the warm-up. After half a cosine wave the default assistant
    answered 83.5 % to the letter instead of 88.0, and the spam filter after an epoch 94.0 % instead of 96.3 (one seed).
    """
    from model.training import TrainingConfig

    steps = params.epochs * batches_per_epoch
    return TrainingConfig(
        steps=steps,
        learning_rate=params.learning_rate,
        optimizer=params.optimizer,
        muon_learning_rate=params.muon_learning_rate,
        weight_decay=params.weight_decay,
        warmup_steps=int(params.warmup_fraction * steps),
        rows_at_once=params.rows_at_once,
        schedule="wsd",
        decay_fraction=1.0,
        seed=params.seed,
        precision=params.precision,
        trainable="adapters" if params.lora_rank else params.trainable,
    )
