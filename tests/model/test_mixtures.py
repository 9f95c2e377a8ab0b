"""Sources come in their shares, none too often, and the order is a pure function of (seed, position)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import model.batches
import model.mixtures
from model.batches import TokenWindows, shuffled
from model.mixtures import Mixture, Pieces, shares

TOKENS = np.arange(10_000)


def pieces(*bounds: tuple[int, int]) -> Pieces:
    return Pieces(TOKENS, np.array([b for b, _ in bounds], np.int64), np.array([e - b for b, e in bounds], np.int64))


def mixture(weights: dict[str, float], n_windows: int, max_epochs: float | None = None, seed: int = 0) -> Mixture:
    rows = {"low": pieces((0, 1000), (2000, 3000)), "high": pieces((5000, 9000))}
    windows = {name: TokenWindows(rows[name], 10, 1, seed) for name in weights}
    quotas = shares(weights, {name: w.windows_per_epoch for name, w in windows.items()}, n_windows, max_epochs)
    return Mixture(list(windows.values()), list(quotas.values()), batch_size=4, seed=seed)


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    gaps=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    start=st.integers(0, 60),
    size=st.integers(0, 60),
)
def test_pieces_are_one_row(lengths: list[int], gaps: list[int], start: int, size: int) -> None:
    """Pieces of a row, whatever lies between them, slice like the array of their joined tokens."""
    ends = np.cumsum(np.array(lengths) + np.array(gaps[: len(lengths)]))
    starts = ends - np.array(lengths)
    joined = np.concatenate([TOKENS[s:e] for s, e in zip(starts, ends, strict=True)])
    row = Pieces(TOKENS, starts, np.array(lengths))
    assert len(row) == len(joined)
    assert row[start : start + size].tolist() == joined[start : start + size].tolist()


def test_every_window_is_of_one_source_in_its_share() -> None:
    """With weights 3 and 1, three windows of four come from the first source, exactly, in every round."""
    batches = mixture({"low": 3, "high": 1}, n_windows=400)
    firsts = [int(row[0]) for position in range(100) for row in batches(position).ids_BT]
    assert Counter(first >= 5000 for first in firsts) == {False: 300, True: 100}
    assert not any(1000 <= first < 2000 for first in firsts)


def test_the_order_of_each_source_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many sources that take turns cost one shuffle each, and one for the round."""
    done: list[int] = []

    def counted(indices: range, size: int, key: int) -> list[int]:
        done.append(size)
        return shuffled(indices, size, key)

    monkeypatch.setattr(model.batches, "shuffled", counted)
    monkeypatch.setattr(model.mixtures, "shuffled", counted)
    batches = Mixture([TokenWindows(TOKENS, 10, 1, seed) for seed in range(5)], [20] * 5, batch_size=4, seed=0)
    for position in range(25):
        batches(position)
    assert sorted(done) == [100, *[998] * 5]


def test_a_source_is_gone_through_before_it_comes_again() -> None:
    """Each source's windows of an epoch are all seen before any comes twice."""
    batches = mixture({"high": 1}, n_windows=399)
    starts = [int(row[0]) for position in range(99) for row in batches(position).ids_BT]
    assert len(set(starts)) == len(starts) == 396


def test_a_position_is_all_there_is_to_know() -> None:
    """The batch at a position does not depend on what was asked before; another seed gives another."""
    batches = mixture({"low": 1, "high": 1}, n_windows=10_000)
    later = batches(2000).ids_BT
    batches(0)
    assert torch.equal(batches(2000).ids_BT, later)
    assert not torch.equal(mixture({"low": 1, "high": 1}, n_windows=10_000, seed=1)(2000).ids_BT, later)


def test_the_order_never_changes_between_versions() -> None:
    """These numbers are a promise: a checkpoint of an earlier version goes on with the right batch."""
    batches = mixture({"low": 1, "high": 3}, n_windows=1000)
    assert [batches(p).ids_BT[:, 0].tolist() for p in (0, 200)] == [[7419, 2489, 8900, 5949], [2449, 8869, 769, 7929]]


@given(
    weights=st.lists(st.floats(0.05, 20), min_size=1, max_size=5),
    sizes=st.lists(st.integers(50, 5000), min_size=5, max_size=5),
    n_windows=st.integers(100, 50_000),
    max_epochs=st.floats(0.5, 20),
)
def test_no_source_comes_more_often_than_allowed(
    weights: list[float], sizes: list[int], n_windows: int, max_epochs: float
) -> None:
    """The rounds are full, the cap holds to the window, and what is below the cap keeps the weights' proportions."""
    names = {f"s{number}": weight for number, weight in enumerate(weights)}
    windows = {f"s{number}": size for number, size in enumerate(sizes)}
    try:
        quotas = shares(names, windows, n_windows, max_epochs)
    except ValueError:
        return
    per_round = min(4096, n_windows)
    rounds = -(-n_windows // per_round)
    assert sum(quotas.values()) == per_round
    assert all(0 < quotas[name] * rounds <= windows[name] * max_epochs for name in names)
    free = [name for name in names if quotas[name] < int(windows[name] * max_epochs / rounds)]
    scale = [quotas[name] / names[name] for name in free]
    assert all(abs(quotas[name] - names[name] * max(scale)) <= 2 + names[name] / min(names.values()) for name in free)


def test_what_the_cap_takes_goes_to_the_others() -> None:
    """A source of 100 windows that may come twice gives 200 of 1,000; the others share the rest as 3 to 1."""
    assert shares({"a": 6, "b": 3, "c": 1}, {"a": 100, "b": 9000, "c": 9000}, 1000, 2) == {"a": 200, "b": 600, "c": 200}


@pytest.mark.parametrize(
    ("weights", "max_epochs", "said"),
    [
        ({"a": 1.0, "b": 1.0}, 2, "1,000 windows are drawn, but 2 times the sources hold only 400"),
        ({"a": 1.0, "b": 0.00001}, None, "the source b would get no window"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(weights: dict[str, float], max_epochs: float | None, said: str) -> None:
    """Too little text under the cap, or a weight too small for one window in a round, is an error that says so."""
    with pytest.raises(ValueError, match=said):
        shares(weights, {"a": 100, "b": 100}, 1000, max_epochs)
