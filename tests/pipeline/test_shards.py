"""Tokens come back from their shards as they went in, as memory, and from nothing that only looks like a shard."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.batches import TokenWindows
from pipeline.errors import IntegrityError
from pipeline.shards import (
    BLOCK_TOKENS,
    SplitWriter,
    TokenRow,
    map_shard,
    map_split,
    read_index,
    token_type,
    write_shards,
)

VOCAB = 300

# Flips bits of a shard outside its tokens, each in a process of its own (Arrow ends its process at some footers).
FLIPPER = """\
import os
from pathlib import Path
import numpy as np
from model.batches import TokenWindows
from pipeline.errors import IntegrityError
from pipeline.shards import map_shard
whole = Path("t-00000.parquet").read_bytes()
header = whole.index(bytes([0, 0, 1, 0, 2, 0, 3, 0]))
right = map_shard(Path("t-00000.parquet"), 300).copy()
devnull = os.open(os.devnull, os.O_WRONLY)
for position in [*range(0, header, 2), *range(len(whole) - 300, len(whole), 3)]:
    for mask in (0x01, 0x04, 0x80):
        altered = bytearray(whole)
        altered[position] ^= mask
        Path("altered.parquet").write_bytes(altered)
        child = os.fork()
        if not child:
            os.dup2(devnull, 2)
            try:
                os._exit(0 if np.array_equal(map_shard(Path("altered.parquet"), 300), right) else 1)
            except IntegrityError:
                os._exit(77)
            except BaseException:
                os._exit(70)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(position, mask, {0: "same", 77: "refused", -6: "aborted"}.get(ended, f"WRONG {ended}"))
"""


Facts = dict[str, Any]


def write(folder: Path, documents: Sequence[Sequence[int]], per_shard: int = 1, vocab_size: int = VOCAB) -> Facts:
    """Shards of so many documents each, and what the manifest would say of them."""
    writer = SplitWriter(folder, "train")
    for first in range(0, len(documents), per_shard):
        chosen = [np.asarray(ids, token_type(vocab_size)) for ids in documents[first : first + per_shard]]
        numbers = range(first, first + len(chosen))
        writer.add(
            write_shards(folder / f"of-{first}", np.concatenate(chosen)),
            [f"d{number}" for number in numbers],
            [f"s{number % 2}" for number in numbers],
            np.array([len(ids) for ids in chosen]),
        )
    writer.close()
    return {"vocab_size": vocab_size, "shards": {"train": writer.shards}}


def tokens_of(folder: Path, facts: Facts) -> np.ndarray:
    return np.asarray(map_split(folder, "train", facts))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shard can hold more than a block."""
    monkeypatch.setattr("pipeline.shards.MAX_SHARD_TOKENS", BLOCK_TOKENS)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(
        st.one_of(
            st.integers(1, 50), st.sampled_from([BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 2 * BLOCK_TOKENS])
        ),
        min_size=1,
        max_size=5,
    ),
    per_shard=st.integers(1, 5),
)
def test_reading_undoes_writing(
    tmp_path_factory: pytest.TempPathFactory, small_shards: None, lengths: list[int], per_shard: int
) -> None:
    """Documents of any length, however many to a shard, across blocks and shards, come back as one row in order."""
    folder = tmp_path_factory.mktemp("shards")
    everything = np.arange(sum(lengths)) * 7 % VOCAB
    documents = np.split(everything, np.cumsum(lengths)[:-1])
    assert np.array_equal(tokens_of(folder, write(folder, documents, per_shard)), everything)
    assert not list(folder.glob("of-*"))
    index = read_index(folder, "train").to_pydict()
    assert index == {
        "id": [f"d{number}" for number in range(len(lengths))],
        "source": [f"s{number % 2}" for number in range(len(lengths))],
        "first_token": [0, *np.cumsum(lengths)[:-1].tolist()],
        "n_tokens": lengths,
    }


def test_every_token_lies_in_exactly_one_shard(tmp_path: Path) -> None:
    """The shards hold the tokens one after the other, and the last block of each is filled up, with zeros."""
    facts = write(tmp_path, [list(range(1, 201)) * 500, [7] * 50_000])
    shards = [map_shard(path, VOCAB) for path in sorted(tmp_path.glob("train-?????.parquet"))]
    assert [len(shard) for shard in shards] == [2 * BLOCK_TOKENS, BLOCK_TOKENS]
    assert facts["shards"]["train"] == [100_000, 50_000]
    assert shards[0][:100_000].tolist() == list(range(1, 201)) * 500
    assert (set(shards[1][:50_000].tolist()), shards[0][100_000:].any(), shards[1][50_000:].any()) == (
        {7},
        False,
        False,
    )


def test_one_shard_is_read_without_a_copy(tmp_path: Path) -> None:
    """With one shard the split is a read-only view of the file itself: no byte was copied."""
    tokens = tokens_of(tmp_path, write(tmp_path, [[1, 2, 3]]))
    owner = tokens
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert (isinstance(owner, np.memmap), tokens.flags.owndata, tokens.flags.writeable) == (True, False, False)
    assert Path(owner.filename) == tmp_path / "train-00000.parquet"


@given(start=st.integers(0, 4 * BLOCK_TOKENS), size=st.integers(0, 3 * BLOCK_TOKENS))
def test_several_shards_are_one_row(several: tuple[TokenRow, np.ndarray], start: int, size: int) -> None:
    """A slice across shards is the slice of all tokens; within one shard it is a view of the file."""
    row, everything = several
    assert len(row) == len(everything)
    assert np.array_equal(row[start : start + size], everything[start : start + size])
    assert not row[10:20].flags.owndata


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenRow, np.ndarray]:
    """Three shards and what was written into them."""
    folder = tmp_path_factory.mktemp("several")
    everything = np.arange(3 * BLOCK_TOKENS - 5) * 7 % VOCAB
    facts = write(folder, np.split(everything, [5, BLOCK_TOKENS, 2 * BLOCK_TOKENS + 77]))
    row = map_split(folder, "train", facts)
    assert isinstance(row, TokenRow)
    return row, everything


def test_the_index_does_not_depend_on_how_documents_came(tmp_path: Path) -> None:
    """One document at a time or all at once: equal files, also where the index has several row groups."""
    n = 70_000
    ids, sources = [f"d{number}" for number in range(n)], ["s"] * n
    for name, step in (("one by one", 999), ("at once", n)):
        (tmp_path / name).mkdir()
        writer = SplitWriter(tmp_path / name, "train")
        for i in range(0, n, step):
            count = len(ids[i : i + step])
            shards = write_shards(tmp_path / name / "of", np.full(count, 7, np.uint16))
            writer.add(shards, ids[i : i + step], sources[i : i + step], np.ones(count, np.int64))
        writer.close()
    indices = [(tmp_path / name / "train.documents.parquet").read_bytes() for name in ("one by one", "at once")]
    assert indices[0] == indices[1]
    assert read_index(tmp_path / "at once", "train")["first_token"].to_pylist() == list(range(n))


def test_any_parquet_reader_reads_the_same_tokens(tmp_path: Path) -> None:
    """To plain pyarrow a shard is a table of blocks, 65,536 little-endian tokens each."""
    facts = write(tmp_path, [[5, 6, 299] * 30_000])
    blocks = [
        block
        for path in sorted(tmp_path.glob("train-*.parquet"))
        for block in pq.read_table(path, page_checksum_verification=True)["tokens"].to_pylist()
    ]
    tokens = np.frombuffer(b"".join(blocks), "<u2")[:90_000]
    assert np.array_equal(tokens, tokens_of(tmp_path, facts))


@pytest.mark.parametrize(("vocab_size", "kind"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_a_token_takes_as_many_bytes_as_the_vocabulary_needs(tmp_path: Path, vocab_size: int, kind: str) -> None:
    """Up to 65,536 entries a token is two bytes, beyond that four; the largest id survives either way."""
    tokens = tokens_of(tmp_path, write(tmp_path, [[0, vocab_size - 1]], vocab_size=vocab_size))
    assert (tokens.dtype, token_type(vocab_size), tokens.tolist()) == (kind, kind, [0, vocab_size - 1])


def test_documents_and_shards_must_agree(tmp_path: Path) -> None:
    """Shards of other documents than those named are refused."""
    writer = SplitWriter(tmp_path, "train")
    with pytest.raises(ValueError, match="3 tokens in the shards, 4 in the documents"):
        writer.add(write_shards(tmp_path / "of", np.zeros(3, np.uint16)), ["d"], ["s"], np.array([4]))


def test_a_split_without_documents_is_empty(tmp_path: Path) -> None:
    """No document gives a split of no tokens, which reads as such."""
    facts = write(tmp_path, [])
    assert (len(tokens_of(tmp_path, facts)), read_index(tmp_path, "train").num_rows) == (0, 0)


def test_writing_twice_gives_equal_bytes(tmp_path: Path) -> None:
    """Shards depend on the tokens alone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [[9] * BLOCK_TOKENS, [1, 2, 3]])
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    """Without its first shard, a split does not hold the tokens that were written."""
    facts = write(tmp_path, [[1] * 100_000, [2] * 10])
    (tmp_path / "train-00000.parquet").unlink()
    with pytest.raises(IntegrityError, match="holds 1 blocks in 1 shards, where 3 in 2 were written"):
        tokens_of(tmp_path, facts)


BLOCK = pa.array([bytes(2 * BLOCK_TOKENS)] * 2, pa.binary(2 * BLOCK_TOKENS))


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (pa.table({"tokens": BLOCK}), {"compression": "zstd", "use_dictionary": False}),
        (pa.table({"tokens": BLOCK}), {"compression": "NONE", "use_dictionary": True}),
        (pa.table({"tokens": BLOCK}), {"compression": "NONE", "use_dictionary": False, "row_group_size": 1}),
        (pa.table({"tokens": BLOCK, "more": BLOCK}), {"compression": "NONE", "use_dictionary": False}),
        (pa.table({"tokens": [[1, 2, 3]]}), {"compression": "NONE", "use_dictionary": False}),
        (pa.table({"tokens": BLOCK[:0]}), {"compression": "NONE", "use_dictionary": False}),
    ],
    ids=["compressed", "dictionary", "two row groups", "two columns", "lists", "no rows"],
)
def test_parquet_of_another_layout_is_refused(tmp_path: Path, table: pa.Table, options: dict[str, object]) -> None:
    """A file that holds the tokens in any other way than ours is refused, not read as tokens."""
    pq.write_table(table, tmp_path / "t-00000.parquet", **options)
    with pytest.raises(IntegrityError, match="not a"):
        map_shard(tmp_path / "t-00000.parquet", VOCAB)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty, torn or foreign file is an IntegrityError that names it."""
    (tmp_path / "t-00000.parquet").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"t-00000\.parquet: not a readable Parquet token shard"):
        map_shard(tmp_path / "t-00000.parquet", VOCAB)


def test_a_shard_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """Two-byte tokens are not read as four-byte ones."""
    write(tmp_path, [[1, 2, 3]])
    with pytest.raises(IntegrityError, match="its page is"):
        map_shard(tmp_path / "train-00000.parquet", 100_000)


@pytest.mark.slow
def test_a_flipped_bit_of_the_layout_never_gives_other_tokens(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Wherever a bit of the page header or the footer flips, the tokens are the same or refused."""
    [(path, _)] = write_shards(tmp_path / "t", np.tile(np.arange(VOCAB, dtype=np.uint16), 10))
    path.rename(tmp_path / "t-00000.parquet")
    said = python("-c", FLIPPER, cwd=tmp_path).stdout.splitlines()
    assert [line for line in said if "WRONG" in line] == []
    assert len(said) > 300


def test_windows_are_the_same_whether_one_shard_holds_the_tokens_or_many() -> None:
    """Each window is found in its shard, or in the row where it lies across two or more."""
    flat = np.arange(1_000, dtype=np.uint16)
    row = TokenRow([flat[:10], flat[10:500], flat[500:503], flat[503:]])
    whole, divided = (TokenWindows(tokens, 16, 4, seed=3) for tokens in (flat, row))
    for position in range(40):
        assert torch.equal(whole(position).ids_BT, divided(position).ids_BT)
        assert torch.equal(whole(position).targets, divided(position).targets)
    assert [found is row for found, _ in row.located(np.array([0, 100, 495]), 16)] == [True, False, True]
