"""The order of the data: a pure function of (seed, position), in which nothing is lost and nothing comes twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.batches import Example, Examples, TokenWindows, batch_of, shuffled
from model.gpt import IGNORE

VERDICT_BEGINS = [40, 367, 2885, 1464, 1807, 3619, 402, 271, 10899]
"""The first GPT-2 tokens of Edith Wharton's "The Verdict", the tutorial's text."""


def test_the_tutorials_first_window() -> None:
    """Windows of four tokens of The Verdict, one apart, have the inputs and targets that the tutorial prints."""
    batch = batch_of([np.array(VERDICT_BEGINS[at : at + 5]) for at in range(5)], None)
    assert batch.ids_BT[0].tolist() == [40, 367, 2885, 1464]
    assert batch.targets[0].tolist() == [367, 2885, 1464, 1807]
    assert batch.ids_BT[1].tolist() == [367, 2885, 1464, 1807]
    assert len(batch.ids_BT) == 5


def test_windows_a_context_apart_do_not_overlap() -> None:
    """Each token is the target of one window at most."""
    batch = batch_of([np.arange(at, at + 5) for at in (0, 4, 8)], None)
    assert batch.ids_BT.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert batch.targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_targets_are_the_next_tokens() -> None:
    """Every target is the token after its input."""
    batch = TokenWindows(np.arange(1000, dtype=np.uint16), context_length=16, batch_size=4, seed=0)(3)
    assert batch.ids_BT.shape == (4, 16) and batch.ids_BT.dtype == torch.int64
    assert torch.equal(batch.targets, batch.ids_BT + 1)


def test_with_an_end_id_documents_are_numbered() -> None:
    """An end-of-text (9) begins the next document; inputs, targets and their order are those without it."""
    tokens = np.array([1, 2, 9, 3, 9, 9, 4, 5])
    batch = TokenWindows(tokens, context_length=7, batch_size=1, seed=0, end_id=9)(0)
    assert batch.documents_BT is not None
    assert batch.documents_BT.tolist() == [[0, 0, 1, 1, 2, 3, 3]]
    plain = TokenWindows(tokens, context_length=7, batch_size=1, seed=0)(0)
    assert (batch.ids_BT.tolist(), batch.targets.tolist()) == (plain.ids_BT.tolist(), plain.targets.tolist())
    assert plain.documents_BT is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_shuffling_loses_nothing_and_repeats_nothing(size: int) -> None:
    """`shuffled` is a bijection of range(size) for every key."""
    for key in range(5):
        assert sorted(shuffled(range(size), size, key)) == list(range(size))


def test_each_epoch_visits_every_window_once_in_a_new_order() -> None:
    """Two epochs cover the same share of the text, in different orders."""
    windows = TokenWindows(np.arange(1030, dtype=np.uint16), context_length=10, batch_size=1, seed=4)
    n = windows.windows_per_epoch
    epochs = [[int(windows(epoch * n + i).ids_BT[0, 0]) for i in range(n)] for epoch in range(2)]
    for starts in epochs:
        assert len(set(starts)) == n == 101
        assert np.diff(sorted(starts)).tolist() == [10] * (n - 1)
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


def test_a_position_is_all_there_is_to_know() -> None:
    """The batch at a position is the same however often and in whatever order it is asked for; the seed changes it."""
    tokens = np.arange(5000, dtype=np.uint16)
    windows = TokenWindows(tokens, context_length=8, batch_size=4, seed=1)
    later_first = windows(700).ids_BT
    assert [windows(p).ids_BT.tolist() for p in range(3)] == [windows(p).ids_BT.tolist() for p in range(3)]
    assert torch.equal(windows(700).ids_BT, later_first)
    assert not torch.equal(TokenWindows(tokens, 8, 4, seed=2)(700).ids_BT, later_first)


def test_the_order_never_changes_between_versions() -> None:
    """These numbers are a promise: a checkpoint of an earlier version goes on with the right batch."""
    windows = TokenWindows(np.arange(5000, dtype=np.uint16), context_length=8, batch_size=4, seed=1)
    assert [windows(p).ids_BT[:, 0].tolist() for p in (0, 1000)] == [[1019, 2931, 1051, 299], [753, 145, 4817, 2161]]


def test_a_text_shorter_than_a_window_is_refused() -> None:
    """A corpus too small for one window and its target says so."""
    TokenWindows(np.arange(9), context_length=8, batch_size=1, seed=0)(0)
    with pytest.raises(ValueError, match="8 tokens are too few"):
        TokenWindows(np.arange(8), context_length=8, batch_size=1, seed=0)


def test_each_epoch_visits_every_example_once() -> None:
    """Seven examples in batches of three: an epoch is 3, 3 and 1 of them, each once, shuffled anew in the next."""
    batches = Examples([Example([i], i) for i in range(7)], batch_size=3, seed=0, padding_id=0)
    assert len(batches) == 3
    epochs = [[batches(3 * epoch + i).targets.tolist() for i in range(3)] for epoch in range(2)]
    for epoch in epochs:
        assert [len(labels) for labels in epoch] == [3, 3, 1]
        assert sorted(label for labels in epoch for label in labels) == list(range(7))
    assert epochs[0] != epochs[1]


def test_examples_of_like_length_go_together() -> None:
    """Of 330 texts of 1 to 40 tokens each comes once an epoch, short rows last, and a tenth at most is padding."""
    examples = [Example([0] * (1 + i % 40), i) for i in range(330)]
    batches = Examples(examples, batch_size=8, seed=3, padding_id=0)
    epoch = [batches(position) for position in range(len(batches))]
    assert sorted(int(label) for batch in epoch for label in batch.targets) == list(range(330))
    assert [len(batch.targets) for batch in epoch] == [8] * 41 + [2]
    real = sum(int(batch.lengths_B.sum()) for batch in epoch if batch.lengths_B is not None)
    assert 1 - real / sum(batch.ids_BT.numel() for batch in epoch) < 0.1
    widths = [batch.ids_BT.shape[1] for batch in epoch[:32]]
    assert widths != sorted(widths)


@pytest.mark.parametrize(("at_once", "sizes"), [(0, [5]), (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_a_batch_comes_in_parts(at_once: int, sizes: list[int]) -> None:
    """So many rows at once, in order; 0, and as many as there are, leaves it whole."""
    batch = Examples([Example([i] * (i + 1), i) for i in range(5)], batch_size=5, seed=0, padding_id=9)(0)
    parts = batch.parts(at_once)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([part.ids_BT for part in parts]), batch.ids_BT)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_the_tutorials_numbers_of_batches() -> None:
    """1,045 messages make 130 batches of 8 when the short last one is left out."""
    messages = [Example([1], 0)] * 1045
    assert len(Examples(messages, batch_size=8, seed=0, padding_id=0, drop_last=True)) == 130
    assert len(Examples(messages, batch_size=8, seed=0, padding_id=0)) == 131


def test_rows_are_padded_per_batch_and_padding_is_not_scored() -> None:
    """Padding goes to the longest row of the batch, and its targets are ignored."""
    batch = Examples([Example([1, 2, 3], [2, 3, 9]), Example([4], [9])], batch_size=2, seed=0, padding_id=9)(0)
    rows = sorted(zip(batch.ids_BT.tolist(), batch.targets.tolist(), strict=True))
    assert rows == [([1, 2, 3], [2, 3, 9]), ([4, 9, 9], [9, IGNORE, IGNORE])]
    assert batch.scored() == 4
