"""Records come back from their file as they went in, and a damaged file never gives others."""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.documents import (
    KINDS,
    ROWS_PER_GROUP,
    Conversation,
    Document,
    Instruction,
    Message,
    Preference,
    Question,
    Record,
    Translation,
    in_parts,
    learned_texts,
    part_files,
    read_batches,
    read_records,
    with_texts,
    write_columns,
    write_records,
    write_table,
    written_turns,
)
from pipeline.errors import DataError, IntegrityError

COLUMNS = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("id", "dataset", "split", "label", "text")]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = [Document.of(source="s", name=str(n), licence="CC0-1.0", text=f"text {n} é 🌍") for n in range(3)]

# Flips bits of a file, one byte at a time, each in a process of its own (Arrow ends its process at some footers).
FLIPPER = """\
import os, sys
from pathlib import Path
from pipeline.documents import Document, read_records
from pipeline.errors import DataError, IntegrityError
whole = Path("whole.parquet").read_bytes()
right = list(read_records(Path("whole.parquet"), Document))
devnull = os.open(os.devnull, os.O_WRONLY)
for position in range(0, len(whole), int(sys.argv[1])):
    for mask in (0x01, 0x80):
        altered = bytearray(whole)
        altered[position] ^= mask
        Path("altered.parquet").write_bytes(altered)
        child = os.fork()
        if not child:
            os.dup2(devnull, 2)
            try:
                os._exit(0 if list(read_records(Path("altered.parquet"), Document)) == right else 1)
            except (IntegrityError, DataError):  # the latter for a column's name, as of an older file
                os._exit(77)
            except BaseException:
                os._exit(70)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(position, mask, {0: "same", 77: "refused", -6: "aborted"}.get(ended, f"WRONG {ended}"))
"""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=8))
def test_reading_undoes_writing(tmp_path: Path, texts: list[tuple[str, str, str]]) -> None:
    """Whatever the texts, records come back equal and in order; the count of them is what writing answers."""
    records = [Document.of(source="s", name=a, licence=b, text=c) for a, b, c in texts]
    assert write_records(records, Document, tmp_path / "r.parquet") == len(records)
    assert list(read_records(tmp_path / "r.parquet", Document)) == records


@pytest.mark.parametrize("count", [0, 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 1])
def test_row_groups_do_not_show(tmp_path: Path, count: int) -> None:
    """Files of none, one, a full and a just overflowing row group all come back whole."""
    records = [Message(str(n), "d", "train", "ham", f"message {n}") for n in range(count)]
    write_records(iter(records), Message, tmp_path / "r.parquet")
    assert list(read_records(tmp_path / "r.parquet", Message)) == records


def test_writing_twice_gives_equal_bytes(tmp_path: Path) -> None:
    """A file's bytes depend on the records alone."""
    for name in ("a", "b"):
        write_records(DOCUMENTS, Document, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("sizes", [[1], [0, 3], [ROWS_PER_GROUP - 1, 1, 1], [5, 2 * ROWS_PER_GROUP]])
def test_columns_written_are_the_file_of_their_records(tmp_path: Path, sizes: list[int]) -> None:
    """However records lie in batches, the file has the bytes that writing them one by one gives."""
    records = [Message(str(n), "d", "train", "ham", f"message é {n}") for n in range(sum(sizes))]
    write_records(records, Message, tmp_path / "one.parquet")
    everything = pa.Table.from_batches(list(read_batches(tmp_path / "one.parquet", Message)), COLUMNS)
    ends = list(itertools.accumulate(sizes, initial=0))
    batches = [everything.slice(a, b - a).to_batches() for a, b in itertools.pairwise(ends)]
    write_columns(pa.Table.from_batches(itertools.chain(*batches), COLUMNS), Message, tmp_path / "other.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def pages(count: int) -> list[Document]:
    """Documents of many lengths, of which about one in a hundred is longer than a small part may be."""
    draw = random.Random(3)
    return [
        Document.of(source="s", name=str(n), licence="l", text="x" * int(draw.paretovariate(0.8) * 100))
        for n in range(count)
    ]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many characters a part has at least."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 4000)
    return 4000


def test_a_table_is_one_to_every_reader(tmp_path: Path, small_parts: int) -> None:
    """Written in parts, the records come back in order, from us and from plain pyarrow, as those of a file do."""
    records = pages(300)
    assert write_table(iter(records), Document, tmp_path / "t.parquet") == 300
    assert len(part_files(tmp_path / "t.parquet")) > 10
    assert list(read_records(tmp_path / "t.parquet", Document)) == records
    assert pq.read_table(tmp_path / "t.parquet")["id"].to_pylist() == [record.id for record in records]
    write_records(records, Document, tmp_path / "one.parquet")
    assert list(read_records(tmp_path / "one.parquet", Document)) == records
    with pytest.raises(IntegrityError, match=r"none\.parquet: not a readable"):
        list(read_records(tmp_path / "none.parquet", Document))


def test_parts_are_neither_short_nor_long(small_parts: int) -> None:
    """All but the last have at least so many characters, and none twice as many but for its last record."""
    parts = list(in_parts(pages(3000)))
    sizes = [sum(len(record.text) for record in part) for part in parts]
    assert sum(len(part) for part in parts) == 3000
    weights = [size + 300 * len(part) for size, part in zip(sizes, parts, strict=True)]  # with ids and names
    assert min(weights[:-1]) >= small_parts
    assert max(size - len(part[-1].text) for size, part in zip(sizes, parts, strict=True)) < 2 * small_parts


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2999), added=st.integers(-40, 40))
def test_a_change_moves_the_ends_near_it_only(small_parts: int, place: int, added: int) -> None:
    """Records more or fewer at one place leave the parts before as they were, and all but a few of those after."""
    before = pages(3040)
    after, before = before[3000:], before[:3000]
    changed = before[:place] + (after[:added] if added > 0 else []) + before[place + max(0, -added) :]
    known = {tuple(record.id for record in part) for part in in_parts(before)}
    new = [part for part in in_parts(changed) if tuple(record.id for record in part) not in known]
    weight = sum(len(record.text) + 300 for record in after[:added]) if added > 0 else 0
    assert len(new) <= 12 + weight / small_parts


EXAMPLES: list[Record] = [
    Document.of(source="s", name="n", licence="l", text="one"),
    Message.of(dataset="d", split="train", label="ham", text="one"),
    Instruction.of(dataset="d", split="train", instruction="one", input="", response="two"),
    Conversation.of(dataset="d", split="train", messages=written_turns([{"role": "user", "content": 'one\ntwo "ü"'}])),
    Translation.of(dataset="d", split="test", source_language="en", target_language="de", source="one", target="eins"),
    Question.of(dataset="d", split="train", question="one", passage="", answer="two"),
    Preference.of(dataset="d", split="train", prompt="one", chosen="two", rejected="three"),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=KINDS)
def test_texts_are_taken_out_and_put_back(record: Record) -> None:
    """Of every kind; what a conversation says comes without the marks of its JSON, and goes back in whole."""
    texts = learned_texts(record)
    assert texts[0].startswith("one") and with_texts(record, texts) == record
    others = [f'{text}\n"\\' for text in texts]
    changed = with_texts(record, others)
    assert (learned_texts(changed), changed.id) == (others, record.id)


def test_an_id_is_the_digest_of_what_a_record_says() -> None:
    """The id is the sha256 of the parts with NUL between them, so that it can be worked out elsewhere."""
    assert Document.of(source="s", name="n", licence="l", text="t").id == hashlib.sha256(b"s\0n\0t").hexdigest()
    assert Message.of(dataset="d", split="s", label="l", text="t").id == hashlib.sha256(b"s\0l\0t").hexdigest()
    instruction = Instruction.of(dataset="d", split="s", instruction="i", input="", response="r")
    assert instruction.id == hashlib.sha256(b"s\0i\0\0r").hexdigest()


@pytest.mark.slow
def test_a_flipped_bit_never_gives_another_text(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Wherever a bit of the file flips, reading gives the same records or an IntegrityError."""
    write_records(DOCUMENTS, Document, tmp_path / "whole.parquet")
    said = python("-c", FLIPPER, "7", cwd=tmp_path).stdout.splitlines()
    assert [line for line in said if "WRONG" in line] == []
    assert sum("refused" in line for line in said) > len(said) / 3


def test_a_flipped_byte_of_a_page_is_found(tmp_path: Path) -> None:
    """The page checksum finds an altered text, though the file is still readable Parquet."""
    path = tmp_path / "r.parquet"
    write_records(DOCUMENTS, Document, path)
    altered = bytearray(path.read_bytes())
    altered[altered.index(b"text 0") + 5] ^= 1  # short texts are not compressed, so nothing but the checksum can tell
    path.write_bytes(altered)
    with pytest.raises(IntegrityError, match=r"r\.parquet: not a readable Parquet file of Document records"):
        list(read_records(path, Document))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty, torn or foreign file is an IntegrityError."""
    (tmp_path / "r.parquet").write_bytes(content)
    with pytest.raises(IntegrityError):
        list(read_records(tmp_path / "r.parquet", Document))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """A file that lost its end gives no record at all."""
    write_records(DOCUMENTS, Document, tmp_path / "r.parquet")
    whole = (tmp_path / "r.parquet").read_bytes()
    (tmp_path / "r.parquet").write_bytes(whole[:-20])
    with pytest.raises(IntegrityError):
        list(read_records(tmp_path / "r.parquet", Document))


@pytest.mark.parametrize(
    "table",
    [
        pa.table(
            {"id": ["1"], "dataset": ["d"], "split": ["train"], "label": ["ham"], "text": ["text"], "more": ["text"]}
        ),
        pa.table({"id": ["1"], "dataset": ["d"], "split": ["train"], "label": ["ham"], "text": [b"bytes"]}),
        pa.table({"id": [1], "dataset": ["d"], "split": ["train"], "label": ["ham"], "text": ["text"]}),
    ],
    ids=["a column more", "bytes for text", "a number for an id"],
)
def test_another_schema_is_refused_by_its_columns(tmp_path: Path, table: pa.Table) -> None:
    """Parquet of other columns or types is refused, and the message says which columns were expected."""
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(
        (IntegrityError, DataError), match=r"its columns are not id, dataset, split, label, text|no column text"
    ):
        list(read_records(tmp_path / "r.parquet", Message))
