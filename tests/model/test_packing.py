"""Several examples in a row teach what they teach one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batches import Example, collate
from model.gpt import GPT, IGNORE, GPTConfig
from model.packing import PackedExamples


def example(number: int, length: int) -> Example:
    """A row of one number, of which all but the first target is learned."""
    return Example([number] * length, [IGNORE, *[number] * (length - 1)])


def test_the_longest_come_first_and_each_fills_the_fullest_row() -> None:
    """Lengths 6, 5, 4, 3 and 1 fit into two rows of 10, of which one is full."""
    packed = PackedExamples([example(n, length) for n, length in enumerate((4, 3, 6, 1, 5))], 10, 2, 0, 0)
    assert packed.rows == [[2, 0], [4, 1, 3]]
    assert len(packed) == 1


@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_every_epoch_holds_every_example_whole_and_once(lengths: list[int], seed: int) -> None:
    """Whatever the lengths, each example stands in one row, under a document's number of its own, in each epoch."""
    examples = [example(number + 1, length) for number, length in enumerate(lengths)]
    packed = PackedExamples(examples, 8, 3, seed, 0)
    for epoch in range(2):
        found = []
        for position in range(epoch * len(packed), (epoch + 1) * len(packed)):
            batch = packed(position)
            assert batch.documents_BT is not None
            for ids_T, targets_T, documents_T in zip(batch.ids_BT, batch.targets, batch.documents_BT, strict=True):
                for document in documents_T.unique():
                    here = documents_T == document
                    if ids_T[here][0]:
                        found.append(Example(ids_T[here].tolist(), targets_T[here].tolist()))
        assert sorted(found, key=lambda e: e.ids) == sorted(examples, key=lambda e: e.ids)


def test_the_loss_is_that_of_the_examples_one_by_one() -> None:
    """No example looks into its neighbour, and positions begin anew: packed, the loss and the gradient stay."""
    torch.manual_seed(0)
    for positions in ("rope", "learned"):
        shape = GPTConfig(
            vocab_size=20,
            context_length=16,
            n_layers=2,
            n_heads=2,
            d_model=16,
            positions=positions,  # type: ignore[arg-type]
        )
        model = GPT(shape)
        examples = [example(n + 1, length) for n, length in enumerate((4, 3, 6, 1, 5))]
        batch = PackedExamples(examples, 16, 9, 0, 0)(0)
        packed = model.loss(batch.ids_BT, batch.targets, None, "sum", batch.documents_BT)
        padded = collate(examples, 0)
        alone = model.loss(padded.ids_BT, padded.targets, None, "sum")
        torch.testing.assert_close(packed, alone)
        weights = list(model.parameters())
        for ours, theirs in zip(torch.autograd.grad(packed, weights), torch.autograd.grad(alone, weights), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_what_fits_into_no_row_is_refused() -> None:
    """An example longer than the rows is an error that names both."""
    with pytest.raises(ValueError, match="an example of 9 tokens does not fit into rows of 8"):
        PackedExamples([example(1, 9)], 8, 1, 0, 0)(0)
