"""Low-rank adapters learn beside frozen matrices, and vanish into them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from model.batches import Example, Examples
from model.checkpoint import CheckpointSaver, load_checkpoint
from model.gpt import GPT, GPTConfig
from model.lora import TARGETS, AdaptedLinear, adapt, merged
from model.training import TrainingConfig, TrainingState, freeze, train
from model.weights import to_huggingface

SMALL = GPTConfig(vocab_size=20, context_length=16, n_layers=2, n_heads=2, d_model=16, tied_head=False)
MATRICES = TARGETS[:-1]
PEFT_NAMES = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


def adapted(rank: int = 4, targets: tuple[str, ...] = MATRICES, n_classes: int = 0) -> GPT:
    """A small model with adapters that have already learned something."""
    torch.manual_seed(0)
    model = GPT(SMALL)
    if n_classes:
        model = model.with_classifier(n_classes)
    adapt(model, rank=rank, alpha=8.0, targets=targets)
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            torch.nn.init.normal_(module.adapter_b, std=0.3)
    return model


def test_the_tutorials_count_of_trainable_parameters() -> None:
    """Rank 16 beside every matrix of the 124M GPT-2 shape and its head of two classes: 2,666,528 numbers move."""
    shape = GPTConfig(
        vocab_size=50257,
        context_length=1024,
        n_layers=12,
        n_heads=12,
        d_model=768,
        norm="layernorm",
        positions="learned",
        mlp="gelu",
        qkv_bias=True,
        linear_bias=True,
        n_classes=2,
    )
    with torch.device("meta"):
        model = GPT(shape)
        assert adapt(model, rank=16, alpha=16.0, targets=TARGETS) == 2_666_528
    freeze(model, "adapters")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_666_528


def test_an_adapted_model_begins_as_the_model_it_was_made_from() -> None:
    """Before anything is learned the logits are the same, bit for bit."""
    torch.manual_seed(0)
    model = GPT(SMALL).eval()
    ids_BT = torch.randint(20, (2, 9))
    before = model.logits(model(ids_BT))
    adapt(model, rank=4, alpha=8.0, targets=MATRICES)
    assert torch.equal(model.logits(model(ids_BT)), before)


def test_merging_changes_nothing_that_is_computed() -> None:
    """The merged model has the plain model's tensors, and the adapted model's logits."""
    model = adapted().eval()
    ids_BT = torch.randint(20, (2, 9))
    plain = merged(model)
    assert plain.state_dict().keys() == GPT(SMALL).state_dict().keys()
    torch.testing.assert_close(plain.logits(plain(ids_BT)), model.logits(model(ids_BT)), atol=1e-5, rtol=1e-5)
    assert merged(plain) is plain


def test_only_the_adapters_and_a_new_head_learn() -> None:
    """Training moves the adapters and a classifier's head, or the head's adapter; every other weight keeps its bits."""
    for targets, expected in ((MATRICES, {"head.weight"}), (TARGETS, set())):
        model = adapted(targets=targets, n_classes=2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        examples = [Example([1, 2, 3, number], number % 2) for number in range(8)]
        config = TrainingConfig(steps=2, trainable="adapters", optimizer="adamw", precision="float32")
        list(train(model, Examples(examples, 4, 0, 0), config, TrainingState(model, config, "cpu")))
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert {name for name in moved if ".adapter_" not in name} == expected
        assert len(moved) - len(expected) == 2 * sum(isinstance(m, AdaptedLinear) for m in model.modules())


def test_resuming_equals_never_having_stopped(tmp_path: Path) -> None:
    """A training of adapters that was saved and loaded ends with the bits of one that went through."""
    examples = [Example([1, 2, 3, number], [2, 3, number, 0]) for number in range(8)]
    config = TrainingConfig(steps=4, trainable="adapters", precision="float32")
    batches = Examples(examples, 4, 0, 0)
    whole = adapted()
    list(train(whole, batches, config, TrainingState(whole, config, "cpu")))
    first, second = adapted(), adapted(rank=4)
    state = TrainingState(first, config, "cpu")
    next(train(first, batches, config, state))
    with CheckpointSaver(tmp_path, {}) as saver:
        saver.save(state)
    torch.nn.init.ones_(second.blocks[0].attention.query.adapter_a)
    state = TrainingState(second, config, "cpu")
    assert load_checkpoint(tmp_path, state, {}) is not None
    list(train(second, batches, config, state))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("rank", "targets", "said"),
    [
        (0, ("query",), "lora_rank is 0"),
        (4, ("querry",), "lora_targets names 'querry', but knows query, key"),
        (4, ("head",), "adapted in classifiers only"),
        (4, (), "names no matrix of this model"),
    ],
)
def test_what_cannot_be_adapted_is_refused(rank: int, targets: tuple[str, ...], said: str) -> None:
    """A rank of none, an unknown matrix, a language model's head and an empty list are errors that say so."""
    with pytest.raises(ValueError, match=said):
        adapt(GPT(SMALL), rank=rank, alpha=1.0, targets=targets)


@pytest.mark.slow
def test_peft_computes_the_same_logits_and_gradients() -> None:
    """With equal weights, peft's adapters give our logits, and the loss gives A and B the same gradients."""
    peft = pytest.importorskip("peft", reason="compared with peft where it is installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = adapted().train()
    # The plain matrices, without what the adapters add.
    trunk = copy.deepcopy(ours)
    for module in trunk.modules():
        if isinstance(module, AdaptedLinear):
            torch.nn.init.zeros_(module.adapter_b)
    weights, config = to_huggingface(merged(trunk), end_id=0)
    theirs = LlamaForCausalLM(LlamaConfig(**config))
    theirs.load_state_dict(weights)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(PEFT_NAMES.values()), task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(theirs, settings).train()
    parameters = dict(theirs.named_parameters())
    pairs = []
    for name, module in ours.named_modules():
        if isinstance(module, AdaptedLinear):
            _, layer, part, matrix = name.split(".")
            place = f"layers.{layer}.{'self_attn' if part == 'attention' else 'mlp'}.{PEFT_NAMES[matrix]}"
            for letter, adapter in (("A", module.adapter_a), ("B", module.adapter_b)):
                twin = parameters[f"base_model.model.model.{place}.lora_{letter}.default.weight"]
                twin.data.copy_(adapter.data)
                pairs.append((adapter, twin))
    assert len(pairs) == 28
    ids_BT, targets_BT = torch.randint(20, (2, 9)), torch.randint(20, (2, 9))
    logits = theirs(ids_BT).logits
    torch.testing.assert_close(ours.logits(ours(ids_BT)), logits, atol=1e-5, rtol=1e-5)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten()).backward()
    ours.loss(ids_BT, targets_BT).backward()
    for adapter, twin in pairs:
        torch.testing.assert_close(adapter.grad, twin.grad, atol=1e-6, rtol=1e-4)
