"""A model learns to prefer the better of two responses, as the paper says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from model.batches import Example
from model.gpt import GPT, IGNORE, GPTConfig
from model.preferences import (
    Pair,
    Pairs,
    preference_loss,
    preference_scores,
    preferring,
    reference_log_probs,
)
from model.training import TrainingConfig, TrainingState, train
from model.weights import to_huggingface

SMALL = GPTConfig(vocab_size=20, context_length=16, n_layers=1, n_heads=2, d_model=16)


def answered(*response: int) -> Example:
    """The prompt 1 2 3, a response, and end-of-text (0) as the last target."""
    ids = [1, 2, 3, *response]
    return Example(ids, [IGNORE, IGNORE, *response, 0])


PAIRS = [
    Pair(answered(4, 5), answered(6)),
    Pair(answered(7), answered(8, 9, 10)),
    Pair(answered(11), answered(12)),
]


def model_and_pairs(seed: int = 0) -> tuple[GPT, Pairs]:
    """A small model, and the pairs with what it says of them."""
    torch.manual_seed(seed)
    model = GPT(SMALL).eval()
    return model, Pairs(PAIRS, reference_log_probs(model, PAIRS, 2, 0), 2, 0, 0)


def test_the_loss_is_that_of_the_paper() -> None:
    """-log σ(β · (difference of the log-ratios)), worked out with the standard library's mathematics."""
    now, reference = torch.tensor([-3.0, -1.0, -5.0, -2.0]), torch.tensor([-4.0, -1.0, -4.0, -3.0])
    loss_P, margin_P = preference_loss(now, reference, 0.5)
    # chosen: +1 and 0 against the reference; rejected: -1 and +1
    assert margin_P.tolist() == [0.5 * (1 - -1), 0.5 * (0 - 1)]
    assert loss_P.tolist() == pytest.approx([math.log1p(math.exp(-m)) for m in (1.0, -0.5)])


def test_at_the_start_no_response_is_preferred() -> None:
    """Against itself every margin is 0, the loss is log 2, nothing is preferred, and yet there is a gradient."""
    model, pairs = model_and_pairs()
    scores = preference_scores(model, pairs, 0.1)
    assert (scores.loss, scores.accuracy, scores.margin) == (pytest.approx(math.log(2)), 0.0, 0.0)
    preferring(0.1)(model, pairs(0)).backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_pairs_in_parts_have_the_gradient_of_all() -> None:
    """A pair's two rows stay together, and the losses and gradients of the parts add up."""
    model, pairs = model_and_pairs()
    batch = Pairs(PAIRS, pairs.reference, 3, 0, 0)(0)
    found = []
    for parts in ([batch], batch.parts(2)):
        model.zero_grad()
        losses = [preferring(0.1)(model, part) for part in parts]
        sum(losses, torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append((sum(loss.item() for loss in losses), torch.cat([gradient.flatten() for gradient in gradients])))
    assert [part.scored() for part in batch.parts(2)] == [2, 1]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_padding_changes_no_probability() -> None:
    """A response's log-probability is the sum of its tokens', in whatever batch it stands."""
    model, pairs = model_and_pairs()
    with torch.no_grad():
        for number, pair in enumerate(PAIRS):
            for example, said in zip((pair.chosen, pair.rejected), pairs.reference[number], strict=True):
                scores_TV = model.logits(model(torch.tensor([example.ids])))[0].log_softmax(-1)
                assert isinstance(example.targets, list)
                expected = sum(scores_TV[t, i] for t, i in enumerate(example.targets) if i != IGNORE)
                assert said == pytest.approx(float(expected), abs=1e-5)


def test_every_epoch_visits_every_pair_once_with_its_reference() -> None:
    """Both rows of a pair come with what the reference said of them, and no pair comes twice."""
    _, pairs = model_and_pairs()
    for epoch in range(3):
        seen = []
        for position in range(len(pairs) * epoch, len(pairs) * (epoch + 1)):
            batch = pairs(position)
            seen += [int(row[3]) for row in batch.ids_BT[: batch.scored()]]
            by_start = {p.chosen.ids[3]: r for p, r in zip(PAIRS, pairs.reference, strict=True)}
            expected = [by_start[start] for start in (int(row[3]) for row in batch.ids_BT[: batch.scored()])]
            found = torch.stack(batch.reference_B.chunk(2), 1)
            torch.testing.assert_close(found, torch.tensor(expected))
        assert sorted(seen) == [4, 7, 11]


def test_training_makes_the_chosen_responses_preferred() -> None:
    """After some steps every chosen response is likelier than before, compared with the rejected one."""
    model, pairs = model_and_pairs()
    config = TrainingConfig(steps=20, learning_rate=3e-3, optimizer="adamw", precision="float32")
    state = TrainingState(model, config, "cpu", objective=preferring(0.1))
    losses = [step.loss for step in train(model, pairs, config, state)]
    scores = preference_scores(model, pairs, 0.1)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert scores.accuracy == 1.0
    assert scores.loss < math.log(2) - 0.05


@pytest.mark.slow
def test_trl_computes_the_same_loss_and_margins(tmp_path: Path) -> None:
    """trl's DPOTrainer, with equal weights, pairs and beta, gives our loss and our margins."""
    trl = pytest.importorskip("trl", reason="compared with trl where it is installed")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    model, pairs = model_and_pairs()
    pairs = Pairs(PAIRS, pairs.reference, 3, 0, 0)
    weights, config = to_huggingface(model, end_id=0)
    reference, theirs = (LlamaForCausalLM(LlamaConfig(**config)) for _ in range(2))
    reference.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict(to_huggingface(model, end_id=0)[0], strict=False)

    words = Tokenizer(models.WordLevel({"<end>": 0} | {str(number): number for number in range(1, 20)}, "<end>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")

    def said(example: Example) -> str:
        return " " + " ".join(map(str, example.ids[3:])) + " "

    rows = [{"prompt": "1 2 3", "chosen": said(pair.chosen), "rejected": said(pair.rejected)} for pair in PAIRS]
    settings = trl.DPOConfig(str(tmp_path), beta=0.5, report_to=[], bf16=False, use_cpu=True, disable_tqdm=True)
    data = Dataset.from_list(rows)
    trainer = trl.DPOTrainer(theirs, reference, settings, None, data, data, tokenizer)
    found = trainer.evaluate()
    ours = preference_scores(model, pairs, 0.5)
    assert abs(ours.margin) > 0.01
    assert found["eval_loss"] == pytest.approx(ours.loss, abs=1e-5)
    assert found["eval_rewards/margins"] == pytest.approx(ours.margin, abs=1e-5)
    assert found["eval_rewards/accuracies"] == pytest.approx(ours.accuracy)
