"""Goes in: token shards. Comes out: a language model trained on them from nothing, and the curve of its learning."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc

from pipeline.digests import digest_of
from pipeline.encodings import RANKS_FILE, encode, load_encoding
from pipeline.errors import ConfigurationError
from pipeline.held_out import HeldOut
from pipeline.import_closure import code_of
from pipeline.manifest import Manifest, commit, verify
from pipeline.params import Compute
from pipeline.pictures import draw_curves
from pipeline.processor import processor
from pipeline.published import (
    published_config,
    published_model,
    renumbered_words,
    require_digest,
    require_vocabulary,
)
from pipeline.report import Report
from pipeline.shards import map_split, read_index
from pipeline.tables import write_csv
from pipeline.training_plan import Plan, Stopwatch, make_plan, refuse_what_does_not_fit
from pipeline.training_run import SCRATCH, Trained, device_of, model_errors, run_training

if TYPE_CHECKING:
    from model.batches import Batch
    from model.gpt import GPT, GPTConfig

READS = {"tokens": "data/tokens"}
WRITES = {"checkpoint": "data/checkpoints/base"}

CURVES = ("train_loss", "validation_loss")


@dataclass(frozen=True)
class Params:
    """The model's shape, and how it learns."""

    depth: int | None
    """Derives a whole model and its training from one integer, see model/dial.py; what is given here stays as it is,
    what is 0 or null follows from the depth. Null derives nothing."""
    init_from: str | None
    """A folder as published on Hugging Face whose model, shape and all, is trained on; null starts from nothing."""
    init_from_sha256: str | None
    """The digest of that model, which DVC watches in the folder's place; without it the stage says what it is."""
    shape: str
    """The shape to start from, a name in model/presets.py."""
    context_length: int
    """Tokens that the model sees at once."""
    n_layers: int | None
    """Blocks; null takes the shape's."""
    n_heads: int | None
    """Attention heads; null takes the shape's."""
    d_model: int | None
    """Width; null takes the shape's."""
    n_kv_heads: int | None
    """Heads of keys and values; null takes the shape's, or n_heads where that is given."""
    d_ff: int | None
    """Width inside the feed-forward part; null takes the shape's, or what suits d_model where that is given."""
    dropout: float
    """Share of activations dropped while training."""
    steps: int
    """Updates of the weights; 0 takes those of init_from as they are, with a depth as many as follow from it."""
    batch_size: int
    """Windows in one forward pass."""
    gradient_accumulation: int
    """Forward passes whose gradients make one update."""
    packing: Literal["concatenated", "documents"]
    """Windows run across documents: each token sees all before it, or only its own document's."""
    mixture: dict[str, float] | None
    """The sources to train on and their weights; null trains on everything as it lies. Needs no new tokens."""
    max_epochs: float | None
    """With a mixture, the most times that any source is gone through; null sets no limit."""
    optimizer: Literal["muon", "adamw"]
    """Muon for the blocks' matrices with AdamW for the rest, or AdamW alone."""
    learning_rate: float
    """AdamW's peak rate."""
    embedding_learning_rate: float | None
    """AdamW's peak rate for an embedding that is not also the head; null takes learning_rate."""
    muon_learning_rate: float
    """Muon's peak rate."""
    weight_decay: float
    """Pull of the matrices towards zero."""
    warmup_steps: int
    """Steps over which the rates climb from zero."""
    schedule: Literal["cosine", "wsd"]
    """How the rates fall: half a cosine wave, or stable and then straight down."""
    decay_fraction: float
    """With wsd, the share of all steps in which the rates fall."""
    final_lr_fraction: float
    """What is left of the rates at the end."""
    clip_norm: float
    """Longer gradients are shortened to this length; 0 leaves them alone."""
    z_loss: float
    """Pull of the logits' scale towards nothing, say 1e-4; 0 leaves it out."""
    ema_decay: float
    """Evaluate and keep a running mean of the weights, of which a step leaves this share, say 0.999; 0 does not."""
    spike_threshold: float
    """Leave out a step whose loss or gradient is this many deviations worse than the last 128; 0 leaves out none."""
    patience: int
    """Looks at the validation split without a gain after which training ends, with the best weights; 0: never."""
    precision: Literal["auto", "float32", "bfloat16", "float8"]
    """auto takes bfloat16 where the hardware multiplies it; float8 multiplies the blocks' matrices in 8 bits, on a GPU
    that can."""
    compile: bool | Literal["auto"]
    """Compile the model first; auto does on a GPU, and on a CPU if a compiler is there and the run is long."""
    seed: int
    """Decides the first weights, the order of the data and dropout."""
    evaluate_every: int
    """Steps between two looks at the validation split."""
    evaluation_windows: int
    """Windows that such a look scores, evenly over the validation split, with a mixture over that of its sources; 0
    scores all, as the evaluate stage does."""
    sample_prompt: str
    """Continued at every look, to see the model learn to write."""

    def __post_init__(self) -> None:
        from model.ranges import require_ranges

        if self.warmup_steps > self.steps and self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} but steps is {self.steps}; lower one or raise the other"
            )
        if self.depth is not None and self.depth < 1:
            raise ValueError("depth must be at least 1")
        if self.init_from is not None:
            for name in ("depth", "n_layers", "n_heads", "d_model", "n_kv_heads", "d_ff"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} must be null, since init_from brings a shape of its own")
        for name in ("steps", "batch_size", "gradient_accumulation", "context_length", "evaluate_every"):
            may_be_0 = self.depth is not None or (name == "steps" and self.init_from is not None)
            if getattr(self, name) < (not may_be_0):
                raise ValueError(f"{name} must be at least 1" + (", or 0 with a depth" if self.depth else ""))
        for name in ("n_layers", "n_heads", "d_model", "n_kv_heads", "d_ff"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 1, or null for what suits the rest")
        if self.mixture is not None and not (self.mixture and all(0 < w < math.inf for w in self.mixture.values())):
            raise ValueError("mixture must name at least one source, each with a weight above 0")
        if self.max_epochs is not None and (self.mixture is None or self.max_epochs <= 0):
            raise ValueError("max_epochs must be above 0, and limits the sources of a mixture only")
        # With a depth a 0 is what follows from it.
        require_ranges({name: value for name, value in vars(self).items() if value or self.depth is None})


def run(params: Params, *, tokens: Path, checkpoint: Path, compute: Compute, report: Report) -> None:
    """Train to the last step, resuming where an earlier run was stopped, and write the weights with their curve.

    With no step to take, published weights are written as they are, for fine-tuning to start from.
    """
    import torch

    from model.checkpoint import save_model
    from model.gpt import GPT
    from model.parallel import joined

    manifest = verify(tokens)
    device = device_of(compute)
    with (
        model_errors("pretrain"),
        processor(report, compute) as threads,
        ExitStack() as stack,
    ):
        params = settled(params, int(manifest.facts["vocab_size"]))
        config = model_config(params, int(manifest.facts["vocab_size"]))
        # It counts the model's weights, so it comes before them; and before the processes meet, who would otherwise
        # say that one has left them, and not why.
        planning = params.steps and not int(os.environ.get("RANK", 0))
        watch = _planned(params, config, manifest, compute) if planning else None
        world = stack.enter_context(joined(device, sharded=compute.shard_model))
        torch.set_num_threads(compute.threads or max(1, threads // world.size))
        if params.batch_size < world.size:
            raise ConfigurationError(
                f"pretrain.batch_size is {params.batch_size} but {world.size} processes train; raise it, or lower "
                "compute.processes"
            )
        torch.manual_seed(params.seed)
        model = GPT(config) if params.init_from is None else _published(params, config, tokens)
        watcher = _watcher(params, tokens, manifest, report)
        if params.steps:
            trained = run_training(
                "pretrain",
                model,
                _batches(params, tokens, manifest, report),
                training_config(params),
                compute=compute,
                identity={"params": digest_of(asdict(params)), "tokens": manifest.digest},
                code=code_of(__name__),
                evaluate=watcher,
                evaluate_every=params.evaluate_every,
                report=report,
                patience=params.patience,
                world=world,
            )
        else:
            found = watcher(model.to(device), 0)
            trained = Trained(model.cpu(), [{"step": 0, "tokens_seen": 0, **found}], changes=[], steps_before=0)
            report.note("the published weights as they are: " + " · ".join(f"{k} {v:.4g}" for k, v in found.items()))
        if watch:
            whole = not trained.steps_before and len(trained.history) == params.steps
            report.metrics(watch.compare(whole=whole))
    if world.rank:
        return
    with commit(checkpoint, "checkpoint", params=params, inputs={"tokens": tokens}) as draft:
        save_model(draft.path, trained.model)
        history = trained.history
        write_csv(history, ("step", "tokens_seen", "learning_rate", "train_loss"), draft.path / "training.csv")
        write_csv(history, ("step", "validation_loss", "bits_per_byte"), draft.path / "validation.csv")
        draft.facts |= {
            "n_parameters": config.parameter_count(),
            "tokens_seen": history[-1]["tokens_seen"],
            "vocabulary_fingerprint": manifest.facts["vocabulary_fingerprint"],
            **trained.facts,
        }
    picture = SCRATCH / "pretrain-loss.png"
    draw_curves(history, CURVES, "Pretraining: nats per token", picture)
    report.keep(picture)


def settled(params: Params, vocab_size: int) -> Params:
    """The params with what a depth decides put in where they say nothing."""
    if params.depth is None:
        return params
    from model.dial import shape, training
    from model.plan import multiplying_weights

    def filled(params: Params, derived: Any) -> Params:
        return replace(params, **{k: value for k, value in vars(derived).items() if not getattr(params, k)})

    params = filled(params, shape(params.depth, d_model=params.d_model or 0))
    config = model_config(params, vocab_size)
    return filled(
        params,
        training(
            multiplying_weights(config),
            config.d_model,
            config.context_length,
            batch_size=params.batch_size,
            gradient_accumulation=params.gradient_accumulation,
            steps=params.steps,
        ),
    )


def plan_of(params: Params, config: GPTConfig, corpus_tokens: int | None, compute: Compute, models: int = 1) -> Plan:
    """What training this model will take on this machine; of weights that are taken as they are, what a step would."""
    if not params.steps:
        params = replace(params, steps=1, warmup_steps=0)
    return make_plan(
        config,
        training_config(params),
        batch_size=params.batch_size,
        compute=compute,
        corpus_tokens=corpus_tokens,
        models=models,
    )


def _published(params: Params, config: GPTConfig, tokens: Path) -> GPT:
    """The published model to start from, once it is known to be the one that is meant, and the tokens its own."""
    assert params.init_from is not None
    folder = Path(params.init_from)
    require_digest(folder, params.init_from_sha256)
    require_vocabulary(folder, load_encoding(tokens / RANKS_FILE))
    return published_model(folder, config)


def _planned(params: Params, config: GPTConfig, manifest: Manifest, compute: Compute) -> Stopwatch:
    """A stopwatch beside the plan of this training, once it is known to fit."""
    plan = plan_of(params, config, int(manifest.facts["n_tokens"]["train"]), compute)
    refuse_what_does_not_fit(plan)
    return Stopwatch(plan)


def model_config(params: Params, vocab_size: int) -> GPTConfig:
    """The model's configuration: the named shape with what the params say of it, and the tokens' vocabulary.

    Of a published model the context is cut, or stretched where its positions are rotary, and its vocabulary cut.
    """
    from model.presets import preset

    if params.init_from is not None:
        theirs = published_config(Path(params.init_from))
        renumbered = renumbered_words(Path(params.init_from))
        known = theirs.vocab_size if renumbered is None else len(renumbered)
        if vocab_size > known:
            raise ConfigurationError(
                f"pretrain.init_from: {params.init_from} knows {known:,} words, but the tokens have "
                f"{vocab_size:,}; set tokenize.ranks to the vocabulary of that folder"
            )
        if theirs.positions == "learned" and params.context_length > theirs.context_length:
            raise ConfigurationError(
                f"pretrain.context_length is {params.context_length:,}, but {params.init_from} has learned "
                f"{theirs.context_length:,} positions; lower it"
            )
        return replace(
            theirs, vocab_size=vocab_size, context_length=params.context_length, dropout=params.dropout, n_classes=0
        )
    changes: dict[str, Any] = {"vocab_size": vocab_size, "context_length": params.context_length}
    if params.n_heads or params.d_model:
        # The shape's own would not fit another width; None has them worked out anew.
        changes |= {"n_kv_heads": None, "head_dim": None, "d_ff": None}
    given = {name: getattr(params, name) for name in ("n_layers", "n_heads", "d_model", "n_kv_heads", "d_ff")}
    changes |= {name: value for name, value in given.items() if value}
    return preset(params.shape, dropout=params.dropout, **changes)


def training_config(params: Params) -> Any:
    """The part of the params that the training loop is told."""
    from dataclasses import fields

    from model.training import TrainingConfig

    names = {field.name for field in fields(TrainingConfig)} & {field.name for field in fields(params)}
    return TrainingConfig(**{name: getattr(params, name) for name in names})


def _batches(params: Params, tokens: Path, manifest: Manifest, report: Report) -> Callable[[int], Batch]:
    """The windows to train on, of everything or of a mixture of sources."""
    from model.batches import TokenWindows
    from model.mixtures import Mixture, Pieces, shares

    train = map_split(tokens, "train", manifest.facts)
    end_id = int(manifest.facts["end_of_text"]) if params.packing == "documents" else None
    if params.mixture is None:
        return TokenWindows(train, params.context_length, params.batch_size, params.seed, end_id)
    index = read_index(tokens, "train", ["source", "first_token", "n_tokens"])
    known = index["source"].unique().to_pylist()
    if unknown := [name for name in params.mixture if name not in known]:
        raise ConfigurationError(
            f"pretrain.mixture: no document is of the source {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    windows = {}
    for name in params.mixture:
        rows = index.filter(pc.equal(index["source"], name))
        pieces = Pieces(train, rows["first_token"].to_numpy(), rows["n_tokens"].to_numpy())
        windows[name] = TokenWindows(pieces, params.context_length, params.batch_size, params.seed)
    drawn = params.steps * params.gradient_accumulation * params.batch_size
    quotas = shares(params.mixture, {n: w.windows_per_epoch for n, w in windows.items()}, drawn, params.max_epochs)
    for name, quota in quotas.items():
        share = quota / sum(quotas.values())
        epochs = drawn * share / windows[name].windows_per_epoch
        report.note(f"mixture: {share:.1%} of the windows from {name}, {epochs:.2f} times through it")
    return Mixture(list(windows.values()), list(quotas.values()), params.batch_size, params.seed, end_id)


def _watcher(params: Params, tokens: Path, manifest: Manifest, report: Report) -> Any:
    """What to look at while the model learns: its loss on the validation split, and how it writes."""
    from model.generation import generate

    encoding = load_encoding(tokens / RANKS_FILE)
    held_out = HeldOut(tokens, manifest, windows=params.evaluation_windows or None, sources=tuple(params.mixture or ()))
    prompt = [encoding.eot_token, *encode(encoding, params.sample_prompt).tolist()]

    def watch(model: GPT, _step: int) -> Mapping[str, float]:
        found = held_out.look(model)
        [continuation] = generate(model, [prompt], max_new_tokens=32, end_id=encoding.eot_token)
        report.note(f"sample: {params.sample_prompt}{encoding.decode(continuation)!r}")
        return found

    if len(prompt) >= params.context_length:
        raise ConfigurationError("pretrain.sample_prompt is longer than pretrain.context_length; shorten it")
    return watch
