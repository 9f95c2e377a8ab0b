"""What is turned away is kept whole, with the reason, and its table is made even when nothing was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import manifest, quarantine
from pipeline.cleaning.rejections import Rejection
from pipeline.errors import ConfigurationError, DataError
from pipeline.quarantine import keeping_rejections, listing, read_rejections, write_rejections

REJECTIONS = [
    Rejection.of(
        source="texts", name="a.txt", reason="is not UTF-8: byte 3, invalid start byte", raw=b"abc\xff", offset=3
    ),
    Rejection.of(source="texts", name="b.txt", reason="is not UTF-8: byte 0, invalid start byte", raw=b"\xff"),
    Rejection.of(source="documents", name="77", reason="exact duplicate of 12", raw=b"same"),
    Rejection.of(source="documents", name="78", reason="exact duplicate of 13", raw=b"same"),
    Rejection.of(source="documents", name="79", reason="empty"),
]


def test_every_rejection_is_a_row_with_its_bytes(tmp_path: Path) -> None:
    """Source, name, offset, reason, digest and raw bytes come back as they were, in order."""
    write_rejections(tmp_path / "q", REJECTIONS, stage="ingest")
    rows = pq.read_table(tmp_path / "q" / "rejections.parquet").to_pylist()
    assert [Rejection(**row) for row in rows] == REJECTIONS


def test_reasons_are_counted_by_kind(tmp_path: Path) -> None:
    """The manifest counts reasons without what differs from record to record."""
    write_rejections(tmp_path / "q", REJECTIONS, stage="ingest")
    assert manifest.verify(tmp_path / "q").facts == {
        "rejections": 5,
        "by_reason": {"empty": 1, "exact duplicate": 2, "is not UTF-8": 2},
    }


def test_no_rejection_is_an_empty_table(tmp_path: Path) -> None:
    """A quarantine is made on every run, so an empty one says that nothing was turned away."""
    write_rejections(tmp_path / "q", [], stage="clean")
    assert pq.read_table(tmp_path / "q" / "rejections.parquet").num_rows == 0
    assert manifest.verify(tmp_path / "q").facts == {"rejections": 0, "by_reason": {}}


def test_rejections_are_kept_when_nothing_else_is_left(tmp_path: Path) -> None:
    """A DataError in the block passes on, after what was collected until then has been written."""
    with pytest.raises(DataError), keeping_rejections(tmp_path / "q", stage="clean") as rejections:
        rejections.extend(REJECTIONS)
        raise DataError("nothing left")
    assert pq.read_table(tmp_path / "q" / "rejections.parquet").num_rows == 5


def test_a_listing_shows_texts_only_on_request(tmp_path: Path) -> None:
    """Names and reasons, then the counts; the bytes of the first N if somebody asks for them."""
    write_rejections(tmp_path / "data" / "quarantine" / "clean", REJECTIONS, stage="clean")
    lines = list(listing(tmp_path, "clean", "exact", 0, as_json=False))
    assert lines == [
        "documents 77, byte 0: exact duplicate of 12",
        "documents 78, byte 0: exact duplicate of 13",
        "2 exact duplicate",
    ]
    assert "same" in "".join(listing(tmp_path, "clean", "exact", 1, as_json=False))
    [said] = listing(tmp_path, "clean", "", 1, as_json=True)
    assert json.loads(said)["by_reason"] == {"empty": 1, "exact duplicate": 2, "is not UTF-8": 2}
    assert [record.get("text") for record in json.loads(said)["records"]] == ["abc\\xff", None, None, None, None]
    with pytest.raises(ConfigurationError, match="tokenize: only ingest and clean turn records away"):
        list(listing(tmp_path, "tokenize", "", 0, as_json=False))


def test_a_listing_comes_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is there before the second record is read, so that no listing is held in memory."""
    read = []

    def reading(_: Path) -> Iterator[Rejection]:
        for rejection in REJECTIONS:
            read.append(rejection.name)
            yield rejection

    monkeypatch.setattr(quarantine, "read_rejections", reading)
    assert next(listing(tmp_path, "clean", "", 0, as_json=False)).startswith("texts a.txt, byte 3")
    assert read == ["a.txt"]


def test_bytes_leave_memory_as_they_come(tmp_path: Path) -> None:
    """In memory are counts and the first few; what was turned away is on disk, in order, however much it is."""
    with keeping_rejections(tmp_path / "q", stage="clean") as rejections:
        for number in range(40):
            raw = bytes([number]) * (1 << 19)
            rejections.append(Rejection.of(source="documents", name=str(number), reason="empty", raw=raw))
        assert (len(rejections), len(rejections.first)) == (40, 20)
        assert {rejection.raw for rejection in rejections.first} == {b""}
    kept = list(read_rejections(tmp_path / "q"))
    assert [(row.name, len(row.raw)) for row in kept] == [(str(number), 1 << 19) for number in range(40)]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["q"]
