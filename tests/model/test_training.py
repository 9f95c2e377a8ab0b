"""Training: one step after another, each a pure function of the state and the data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from model.batches import Batch, Example, Examples, TokenWindows
from model.gpt import GPT, GPTConfig
from model.hardware import choose_precision
from model.schedule import learning_rate_factor
from model.training import Diverged, Step, TrainingConfig, TrainingState, train

SMALL: dict[str, Any] = {"vocab_size": 16, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 16}
TEXT = np.tile(np.arange(16, dtype=np.uint16), 40)


def small_model(**changes: Any) -> GPT:
    """A tiny model with fixed weights."""
    torch.manual_seed(0)
    return GPT(GPTConfig(**{**SMALL, **changes}))


def windows(batch_size: int = 4) -> TokenWindows:
    """Windows of a text that counts to 15 over and over."""
    return TokenWindows(TEXT, context_length=8, batch_size=batch_size, seed=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_text_that_counts_is_learned(optimizer: Any, precision: Any) -> None:
    """Every optimizer in every precision brings the loss from a guess to a fifth of it."""
    config = TrainingConfig(steps=60, learning_rate=0.01, optimizer=optimizer, precision=precision, warmup_steps=5)
    steps = list(train(small_model(), windows(), config))
    assert steps[0].loss == pytest.approx(math.log(16), abs=0.1)
    assert steps[-1].loss < 0.6
    assert [step.step for step in steps] == list(range(1, 61))
    assert steps[-1].tokens_seen == 60 * 4 * 8 and not any(step.skipped for step in steps)


def test_training_twice_gives_the_same_bits() -> None:
    """The same seed gives the same weights, with dropout too, whatever else used torch's generator between steps."""
    results = []
    for disturbed in (False, True):
        model = small_model(dropout=0.2)
        for _ in train(model, windows(), TrainingConfig(steps=5, learning_rate=0.01)):
            if disturbed:
                torch.rand(7)
        results.append(torch.cat([weight.flatten() for weight in model.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize(("batch_size", "changes"), [(2, {"gradient_accumulation": 4}), (8, {"rows_at_once": 3})])
def test_a_batch_in_parts_makes_the_step_of_the_whole(batch_size: int, changes: dict[str, int]) -> None:
    """Four batches of 2 rows, or one of 8 in passes of 3, make its step, where rows have unequal targets too."""
    examples = [Example(list(range(n)), [(i + 1) % 16 for i in range(n)]) for n in (2, 8, 3, 5, 7, 4, 6, 8)]
    results = []
    whole: dict[str, int] = {}
    for rows, of_it in ((8, whole), (batch_size, changes)):
        model = small_model()
        config = TrainingConfig(steps=1, learning_rate=0.01, optimizer="adamw", precision="float32", **of_it)
        batches = Examples(examples, batch_size=rows, seed=0, padding_id=0)
        (step,) = train(model, batches, config)
        results.append(
            (step.loss, step.grad_norm, torch.cat([weight.detach().flatten() for weight in model.parameters()]))
        )
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    # Adam's first step is the gradient's sign, which rounding may flip where the gradient is all but zero.
    assert ((results[0][2] - results[1][2]).abs() > 1e-4).float().mean() < 0.01


def test_bfloat16_keeps_its_weights_in_float32() -> None:
    """The model that the caller holds is float32 and moves by less than bfloat16 could show."""
    model = small_model()
    before = model.token_embedding.weight.detach().clone()
    config = TrainingConfig(steps=1, learning_rate=1e-6, precision="bfloat16")
    state = TrainingState(model, config)
    list(train(model, windows(), config, state))
    assert model.token_embedding.weight.dtype == torch.float32
    assert state.fast_model.token_embedding.weight.dtype == torch.bfloat16
    moved = (model.token_embedding.weight - before).abs().max().item()
    assert 0 < moved < 2e-6
    assert torch.equal(state.fast_model.token_embedding.weight, model.token_embedding.weight.bfloat16())


def test_a_step_without_finite_loss_is_skipped() -> None:
    """Weights and optimizer are left alone in a step whose loss is NaN, and training goes on after it."""
    model = small_model()
    config = TrainingConfig(steps=6, learning_rate=0.01, precision="float32", max_skipped_steps=2)
    state = TrainingState(model, config)
    steps: list[Step] = []
    for step in train(model, windows(), config, state):
        steps.append(step)
        if step.step == 2:
            kept = model.blocks[0].mlp.up.weight.detach().clone()
            model.final_norm.weight.data.fill_(math.nan)
        if step.step == 4:
            assert torch.equal(model.blocks[0].mlp.up.weight, kept)
            model.final_norm.weight.data.fill_(1.0)
    assert [step.skipped for step in steps] == [False, False, True, True, False, False]
    assert math.isnan(steps[2].loss) and math.isfinite(steps[5].loss)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_too_many_skipped_steps_in_a_row_end_the_run() -> None:
    """With at most two allowed, the third in a row raises Diverged and says where."""
    model = small_model()
    model.final_norm.weight.data.fill_(math.nan)
    config = TrainingConfig(steps=6, precision="float32", max_skipped_steps=2)
    steps = []
    with pytest.raises(Diverged, match="3 steps in a row up to step 3"):
        steps.extend(train(model, windows(), config))


def test_clipping_shortens_the_gradient() -> None:
    """The reported length is the one before clipping; after it none is longer than asked."""
    model = small_model()
    config = TrainingConfig(steps=1, clip_norm=0.01, precision="float32")
    (step,) = train(model, windows(), config)
    length = torch.stack([weight.grad.norm() for weight in model.parameters() if weight.grad is not None]).norm()
    assert step.grad_norm > 0.1 and length.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("trainable", "blocks_moved"), [("all", {0, 1}), ("last_block", {1}), ("head", set())])
def test_only_what_is_asked_for_is_trained(trainable: Any, blocks_moved: set[int], precision: Any) -> None:
    """A classifier's frozen weights keep their bits; its head always moves."""
    model = small_model(n_classes=2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    examples = Examples([Example([1, 2], 0), Example([3], 1)], batch_size=2, seed=0, padding_id=0)
    list(train(model, examples, TrainingConfig(steps=2, trainable=trainable, precision=precision)))
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {int(name.split(".")[1]) for name in moved if name.startswith("blocks.")} == blocks_moved
    assert "head.weight" in moved
    assert ("token_embedding.weight" in moved) == (trainable == "all")


def test_classes_are_learned() -> None:
    """A classifier tells rows with a 7 from rows without one."""
    examples = [Example([row % 5, 7 if row % 2 else 6, row % 3], row % 2) for row in range(30)]
    model = small_model(n_classes=2)
    config = TrainingConfig(steps=60, learning_rate=0.02, muon_learning_rate=0.1)
    steps = list(train(model, Examples(examples, batch_size=6, seed=0, padding_id=0), config))
    assert steps[-1].loss < 0.05


def test_auto_precision_is_never_worse_than_what_the_device_has() -> None:
    """On any machine "auto" gives a precision, and the two others give what they say."""
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16


def test_a_state_of_another_run_is_refused() -> None:
    """A state belongs to one model and one configuration."""
    model = small_model()
    config = TrainingConfig(steps=2)
    state = TrainingState(model, config)
    with pytest.raises(ValueError, match="another model or configuration"):
        next(train(model, windows(), dataclasses.replace(config, steps=3), state))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warmup_steps": 20}, "warmup_steps is 20 but steps is 10; lower one or raise the other"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd', but must be one of muon, adamw"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be at least 1"),
        ({"learning_rate": 1e300}, r"learning_rate is 1e\+300, but must be above 0 and at most 1e\+06"),
        ({"muon_learning_rate": -0.1}, "muon_learning_rate is -0.1, but must be above 0"),
        ({"embedding_learning_rate": math.inf}, "embedding_learning_rate is inf, but must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, but must be at least 0"),
        ({"warmup_steps": -5}, "warmup_steps is -5, but must be at least 0"),
        ({"decay_fraction": -3.0}, "decay_fraction is -3.0, but must be between 0 and 1"),
        ({"final_lr_fraction": 5.0}, "final_lr_fraction is 5.0, but must be between 0 and 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0, but must be at least 0"),
        ({"z_loss": math.nan}, "z_loss is nan, but must be at least 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0, but must be at least 0 and below 1"),
        ({"spike_threshold": -1.0}, "spike_threshold is -1.0, but must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], said: str) -> None:
    """A configuration of training says what is wrong with it."""
    with pytest.raises(ValueError, match=said):
        TrainingConfig(**{"steps": 10, **changes})


def factors(**changes: Any) -> list[float]:
    """The factors of a ten-step run, rounded."""
    settings = {"steps": 10, "warmup_steps": 2, "schedule": "cosine", "decay_fraction": 0.4, "final_fraction": 0.0}
    settings |= changes
    return [round(learning_rate_factor(step, **settings), 3) for step in range(10)]


def test_the_rate_climbs_and_then_falls() -> None:
    """Warm-up is a straight line; cosine falls at once, wsd only at the end, both to the asked-for rest."""
    assert factors() == [0.5, 1.0, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]
    assert factors(schedule="wsd") == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert factors(schedule="wsd", final_fraction=0.2)[-1] == 0.4
    assert factors(warmup_steps=0)[0] == 1.0


def test_a_spike_is_left_out() -> None:
    """A batch whose loss is far above the last ones moves nothing; the same twice; without a threshold it does."""
    spoiled = 45

    def batches(position: int) -> Batch:
        batch = windows()(position)
        return dataclasses.replace(batch, targets=(batch.targets + 7) % 16) if position == spoiled else batch

    skipped = []
    for threshold in (6.0, 6.0, 0.0):
        model = small_model()
        config = TrainingConfig(steps=48, learning_rate=0.01, precision="float32", spike_threshold=threshold)
        state = TrainingState(model, config)
        for step in train(model, batches, config, state):
            if step.step == spoiled:
                before = model.blocks[0].mlp.up.weight.detach().clone()
            if step.step == spoiled + 1:
                assert torch.equal(model.blocks[0].mlp.up.weight, before) == bool(threshold)
            if step.skipped:
                skipped.append((threshold, step.step))
    assert skipped == [(6.0, spoiled + 1)] * 2


def test_the_running_mean_follows_the_weights() -> None:
    """It is the mean that its definition gives, and `model` holds it within the block only."""
    model = small_model()
    config = TrainingConfig(steps=30, learning_rate=0.01, precision="float32", ema_decay=0.5)
    state = TrainingState(model, config)
    name = "blocks.0.mlp.up.weight"
    weight = model.get_parameter(name)
    expected = weight.detach().clone()
    for step in train(model, windows(), config, state):
        decay = min(0.5, step.step / (9 + step.step))
        expected = decay * expected + (1 - decay) * weight.detach()
    own = weight.detach().clone()
    with state.averaged_weights():
        torch.testing.assert_close(weight.detach(), expected)
        assert not torch.equal(weight, own)
    assert torch.equal(weight, own)


def test_z_loss_keeps_the_softmax_denominator_small() -> None:
    """With it, the log of the denominator ends nearer to zero than without."""
    sizes = []
    for z_loss in (0.0, 1.0):
        model = small_model()
        list(train(model, windows(), TrainingConfig(steps=30, learning_rate=0.02, z_loss=z_loss)))
        sizes.append(model.logits(model(windows()(0).ids_BT)).logsumexp(-1).square().mean().item())
    assert sizes[1] < sizes[0] / 2
