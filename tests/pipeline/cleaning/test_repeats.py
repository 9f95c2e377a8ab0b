"""Which records repeat others is what a look at all of them would say, however the table is cut into parts."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning import outcomes
from pipeline.cleaning.near_duplicates import BANDS, clusters
from pipeline.cleaning.outcomes import Outcome
from pipeline.cleaning.repeats import NO_PAIRS, Pairs, RepeatFinder
from pipeline.columns import table_of


@dataclass(frozen=True)
class Row:
    """What the finder looks at in a record."""

    text: str
    stands: bool = True
    reason: str = ""
    band: int = 0
    """The only band that is not empty, or 0 for a record that is like no other."""
    label: str = ""

    @property
    def digest(self) -> bytes:
        """Of which some begin alike, as no sha256 will."""
        whole = hashlib.sha256(self.text.encode()).digest()
        return bytes(8) + whole[8:] if self.text < "c" else whole


def identity(place: int) -> str:
    return hashlib.sha256(str(place).encode()).hexdigest()


def outcome(rows: list[Row], first: int) -> Outcome:
    bands = np.zeros((len(rows), BANDS), np.uint64)
    bands[:, 3] = [row.band for row in rows]
    columns = [
        [identity(first + n) for n in range(len(rows))],
        ["texts"] * len(rows),
        [row.label for row in rows],
        [len(row.text) for row in rows],
        [len(row.text) for row in rows],
        [row.digest for row in rows],
        [row.digest for row in rows],
        [of_one.tobytes() if row.band else b"" for row, of_one in zip(rows, bands, strict=True)],
        [row.stands for row in rows],
        [row.reason for row in rows],
    ]
    return Outcome(table_of(columns, outcomes._SCHEMA), {}, [], {})


def found(rows: list[Row], size: int) -> tuple[Pairs, Pairs, list[dict[int, str]], list[tuple[str, str]]]:
    """Exact and near repeats of rows that are cut into parts of a size, the reasons by part, and the groups."""
    with tempfile.TemporaryDirectory() as name:
        finder = RepeatFinder(Path(name) / "columns")
        starts = range(0, len(rows), size)
        for start in starts:
            finder.add(outcome(rows[start : start + size], start))
        exact = finder.exact()
        near = finder.near(exact)
        reasons = [finder.repeats_of(part, exact, "repeats") for part in range(len(starts))]
        groups = finder.groups(near)
        return exact, near, reasons, groups


def as_dict(pairs: Pairs) -> dict[int, int]:
    return dict(zip(pairs.places.tolist(), pairs.firsts.tolist(), strict=True))


ROWS = st.builds(
    Row,
    st.sampled_from("abcdef"),
    st.booleans(),
    st.sampled_from(["", "", "too short"]),
    st.integers(0, 4),
    st.sampled_from(["", "ham", "spam"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=25), st.integers(1, 6))
def test_repeats_are_those_of_a_look_at_all(rows: list[Row], size: int) -> None:
    """Of equal texts that stand the first is repeated by the others; of those left, the near ones are the clusters."""
    exact, near, reasons, groups = found(rows, size)
    first: dict[bytes, int] = {}
    expected = {
        place: first[row.digest]
        for place, row in enumerate(rows)
        if row.stands and first.setdefault(row.digest, place) != place
    }
    assert as_dict(exact) == expected
    said: list[dict[int, str]] = [{} for _ in reasons]
    for place, of in expected.items():
        another = " with another label" if rows[place].label != rows[of].label else ""
        said[place // size][place % size] = f"repeats{another} of {identity(of)}"
    assert reasons == said
    stays = [not row.reason and place not in expected for place, row in enumerate(rows)]
    bands = np.array([row.band if is_left else 0 for row, is_left in zip(rows, stays, strict=True)], np.uint64)
    firsts = clusters([bands]).tolist()
    assert as_dict(near) == {place: first for place, first in enumerate(firsts) if first != place}
    assert groups == [(identity(p), rows[f].digest.hex()) for p, f in as_dict(near).items()]


def test_without_a_record_nothing_repeats(tmp_path: Path) -> None:
    """A table of no part is looked through like any other."""
    finder = RepeatFinder(tmp_path / "columns")
    assert as_dict(finder.exact()) == as_dict(finder.near(NO_PAIRS)) == {}
    assert finder.groups(NO_PAIRS) == []
