"""A memo spares work and changes nothing: whatever was edited, lost or damaged in between, the values are the same."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memo import open_memo

KEY = {"rule": "any"}


def value_of(text: str, key: str) -> bytes:
    return (key + text.upper()).encode()


def through(folder: Path, texts: list[str], key: str = "", batch: int = 3) -> tuple[list[bytes], list[str]]:
    """The values of these texts by way of the memo, and the texts that had to be worked out."""
    worked: list[str] = []
    values: list[bytes] = []
    with open_memo("test", {"rule": key}, folder) as memo:
        for first in range(0, len(texts), batch):
            part = texts[first : first + batch]

            def compute(missing: list[int], part: list[str] = part) -> list[bytes]:
                worked.extend(part[position] for position in missing)
                return [value_of(part[position], key) for position in missing]

            digests = [hashlib.sha256(text.encode()).digest() for text in part]
            values += memo.values(digests, compute)
    return values, worked


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


corpora = st.lists(st.tuples(st.lists(st.text(max_size=6), max_size=9), st.sampled_from(["", "a"])), max_size=12)


@settings(max_examples=15, deadline=None)
@given(corpora, st.integers(1, 4))
def test_with_a_memo_or_without_the_values_are_equal(runs: list[tuple[list[str], str]], batch: int) -> None:
    """Through any sequence of corpora and keys: the right values, and no work for what the run before worked out."""
    with tempfile.TemporaryDirectory() as name:
        before: tuple[set[str], str] = (set(), "")
        for texts, key in runs:
            values, worked = through(Path(name), texts, key, batch)
            assert values == [value_of(text, key) for text in texts]
            known = before[0] if before[1] == key else set()
            assert set(worked) == set(texts) - known
            before = (set(texts), key)


def test_what_a_run_did_not_ask_for_is_forgotten(tmp_path: Path) -> None:
    """Nothing of a text that has left the corpus stays in the memo, and of another key neither."""
    through(tmp_path, ["stays", "the secret"])
    assert b"THE SECRET" in everything_in(tmp_path)
    through(tmp_path, ["stays", "new"])
    assert b"THE SECRET" not in everything_in(tmp_path)
    assert through(tmp_path, ["stays", "new"])[1] == []
    through(tmp_path, ["stays"], key="other")
    assert b"NEW" not in everything_in(tmp_path)


def test_a_corpus_that_grows_a_hundred_times_leaves_few_segments(tmp_path: Path) -> None:
    """Each run adds what is new; now and then all becomes one, so looking up stays quick."""
    for number in range(30):
        assert through(tmp_path, [str(n) for n in range(number + 1)])[1] == [str(number)]
    assert len(list(tmp_path.rglob("segment-*"))) <= 9
    before = everything_in(tmp_path)
    through(tmp_path, [str(n) for n in range(30)])
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("file", ["digests.bin", "values.bin", "ends.npy", "heads.npy", "rows.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_memo_is_never_believed(tmp_path: Path, file: str, damage: str) -> None:
    """A flipped byte, a torn file or a missing one costs the work again and nothing else."""
    texts = ["one", "two", "three"]
    through(tmp_path, texts)
    [path] = tmp_path.rglob(file)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-2])
    else:
        path.unlink()
    values, worked = through(tmp_path, texts)
    assert values == [value_of(text, "") for text in texts]
    assert worked == texts
    assert through(tmp_path, texts)[1] == []


def test_a_run_that_fails_leaves_the_memo_as_it_was(tmp_path: Path) -> None:
    """If the stage raises, nothing new is kept and nothing known is lost."""
    through(tmp_path, ["one"])
    before = everything_in(tmp_path)
    with pytest.raises(ZeroDivisionError), open_memo("test", {"rule": ""}, tmp_path) as memo:
        memo.values([hashlib.sha256(b"two").digest()], lambda missing: [b"x" for _ in missing])
        raise ZeroDivisionError
    assert everything_in(tmp_path) == before


def test_too_few_values_are_a_bug_and_never_stored(tmp_path: Path) -> None:
    """A computation that loses one of its inputs is noticed at once."""
    with pytest.raises(AssertionError, match="2 values asked for, 1 worked out"), open_memo("test", KEY, tmp_path) as m:
        m.values([bytes(32), bytes([1] * 32)], lambda missing: [b"x"])


def test_digests_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    """Two digests with the same first eight bytes get their own values, every time."""
    digests = [bytes(8) + bytes([number] * 24) for number in (1, 2, 3)]
    for _ in range(3):
        with open_memo("test", KEY, tmp_path) as memo:
            found = memo.values(digests, lambda missing: [bytes([position]) for position in missing])
        assert found == [b"\0", b"\1", b"\2"]
