"""After an erasure and the next run nothing of it is left in data/: not in shards, tables, reports or names."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import encodings, erase, erasures, trace
from pipeline.cleaning.rejections import Rejection
from pipeline.documents import KINDS, Document, read_records, write_records, written_turns
from pipeline.errors import DataError
from pipeline.quarantine import write_rejections
from pipeline.shards import map_shard
from pipeline.tracking.lineage_tags import RegisteredVersion

pytestmark = pytest.mark.slow  # each clears a whole project, and reads it all again

CANARY = "Ottilie Brandwater keeps the spare key behind seven loose bricks near the old mill pond."
WORDS_IN_A_ROW = 3


def texts_in(data: Path) -> Iterator[tuple[str, str]]:
    """Everything that can be read in data/, with its place: names, raw bytes, Parquet columns, decoded tokens."""
    encoding = encodings.load_encoding(data / "tokens" / encodings.RANKS_FILE)
    for path in sorted(p for p in data.rglob("*") if p.is_file() and "samples" not in p.parts):
        place = path.relative_to(data).as_posix()
        yield f"name of {place}", path.name
        yield place, path.read_bytes().decode(errors="ignore")
        if path.suffix != ".parquet":
            continue
        table = pq.read_table(path)
        if table.schema.names == ["tokens"]:
            yield f"tokens of {place}", encoding.decode(map_shard(path, encoding.n_vocab).tolist(), errors="ignore")
            continue
        for name in table.schema.names:
            for value in table[name].to_pylist():
                yield f"{name} of {place}", value.decode(errors="ignore") if isinstance(value, bytes) else str(value)


def leaks(data: Path) -> set[str]:
    """Where any words in a row of the canary, in any case, can be read."""
    words = CANARY.lower().rstrip(".").split()
    grams = {" ".join(words[n : n + WORDS_IN_A_ROW]) for n in range(len(words) - WORDS_IN_A_ROW + 1)} | {"brandwater"}
    return {place for place, text in texts_in(data) if any(gram in text.lower() for gram in grams)}


def run_data_stages(project: Any) -> None:
    project.run("ingest")
    project.run("clean")
    project.vouch()
    project.run("tokenize")


@pytest.fixture
def planted(made: Any) -> Any:
    """A corpus with the canary in a document, in a copy that clean drops, and in bytes that ingest cannot read."""
    (made.root / "texts" / "ottilie-brandwater.txt").write_text(CANARY)
    (made.root / "texts" / "shouted.txt").write_text(CANARY.upper())
    (made.root / "texts" / "twice.txt").write_text(f"{CANARY}\n")
    (made.root / "texts" / "unreadable.txt").write_bytes(CANARY.encode() + b"\xff")
    run_data_stages(made)
    places = leaks(made.path(""))
    assert {"text", "name", "raw", "tokens"} <= {place.split(" of ")[0] for place in places}
    return made


@pytest.mark.parametrize("asked", ["id", "text"])
def test_nothing_of_an_erased_document_is_left(planted: Any, asked: str) -> None:
    """Erased by its id or by a part of its text, the canary and its copies are gone from everything after a run."""
    with contextlib.chdir(planted.root):
        by_part = erase.find([], "loose bricks", [])
        erasure = erase.find([by_part.records[0].id[:10]], None, []) if asked == "id" else by_part
        erase.record(erasure)
        assert "brandwater" not in erasures.FILE.read_text().lower()
    run_data_stages(planted)
    assert leaks(planted.path("")) == set()
    assert planted.manifest("documents/ingested").facts["documents"] == 40


def test_an_erasure_holds_for_the_future(planted: Any) -> None:
    """The same text under another name, years later, is refused again; and a run gives the same bytes every time."""
    with contextlib.chdir(planted.root):
        erase.record(erase.find([], CANARY, []))
    run_data_stages(planted)
    before = planted.manifest("documents/ingested").files, planted.manifest("tokens").files
    (planted.root / "texts" / "zzz-again.txt").write_text(f"  {CANARY}\r\n")
    run_data_stages(planted)
    assert (planted.manifest("documents/ingested").files, planted.manifest("tokens").files) == before


def test_what_is_concerned_is_named(planted: Any) -> None:
    """Shards, checkpoints, versions and origins are listed, and a champion that saw the record is said to be one."""
    digest = planted.manifest("tokens").digest
    versions = [
        RegisteredVersion("base", 1, (), "language-model", {"tokens": "0" * 64}),
        RegisteredVersion("base", 2, ("champion",), "language-model", {"tokens": digest}),
    ]
    marked = {}
    with contextlib.chdir(planted.root):
        erasure = erase.find([], "loose bricks", versions)
        erase.mark(erasure, lambda name, number, ids: marked.setdefault((name, number), sorted(ids)) is None)
        said = "\n".join(erase.lines(erasure))
    assert [trace.name for trace in erasure.records] == ["ottilie-brandwater.txt", "twice.txt", "unreadable.txt"]
    assert [trace.name for trace in erasure.copies] == ["shouted.txt"]
    assert "tokens/train-00000.parquet" in erasure.shards
    assert "base version 2 is CHAMPION" in said
    assert "base version 1: cannot be known here" in said
    assert "still at its origin, which you own: texts ottilie-brandwater.txt" in said
    in_tokens = {t.id for t in (*erasure.records, *erasure.copies) if t.tokens}
    assert {key: set(ids) for key, ids in marked.items()} == {("base", 2): in_tokens}


def test_purge_waits_until_the_data_is_clean(planted: Any) -> None:
    """Old copies are removed only when all in data/ was made without what is erased; scratch goes with them."""
    (planted.path("scratch") / "memo").mkdir(parents=True, exist_ok=True)
    removed = []
    with contextlib.chdir(planted.root):
        erase.record(erase.find([], CANARY, []))
        for stage in ("", "ingest", "clean"):
            if stage:
                planted.run(stage)
            with pytest.raises(DataError, match="are still in data/"):
                erase.purge(lambda: removed.append("cache"))
        planted.vouch()
        planted.run("tokenize")
        with pytest.raises(DataError, match="data/checkpoints/assistant was made from what is not in data/ any more"):
            erase.purge(lambda: removed.append("cache"))
        assert (removed, planted.path("scratch").exists()) == ([], True)
        for place in ("checkpoints", "evaluations", "exports"):
            shutil.rmtree(planted.path(place))
        erase.purge(lambda: removed.append("cache"))
    assert (removed, planted.path("scratch").exists()) == (["cache"], False)


@pytest.mark.parametrize("where", ["ingest", "clean"])
def test_purge_waits_for_quarantined_bytes_too(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused or dropped is known by its text, though its id was never recorded."""
    monkeypatch.chdir(tmp_path)
    document = Document.of(source="texts", name="a.txt", licence="CC0-1.0", text=CANARY)
    columns = [getattr(document, field.name) for field in dataclasses.fields(document)]
    rejection = {
        "ingest": Rejection.of(source="texts", name="a.txt", reason="not UTF-8", raw=CANARY.encode() + b"\xff"),
        "clean": Rejection.of(
            source="documents", name=document.id, reason="too short", raw="\0".join(columns).encode()
        ),
    }[where]
    folder = Path("data/quarantine") / where
    write_rejections(folder, [rejection], stage=where)
    erasures.FILE.write_text(f"text {erasures.text_digest(CANARY)}\n")
    removed = []
    with pytest.raises(DataError, match=f"1 erased records are still in data/, one in {folder}"):
        erase.purge(lambda: removed.append("cache"))
    # In the next run ingest keeps no bytes of it, and clean does not see it.
    after = list(erasures.honoured([rejection], erasures.load())) if where == "ingest" else []
    write_rejections(folder, after, stage=where)
    erase.purge(lambda: removed.append("cache"))
    assert removed == ["cache"]


def test_purge_takes_the_logs_of_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name what was refused and quote what models wrote; the log of a server, which may be running, stays."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    erasures.FILE.write_text("")
    logs = Path(".homegrown/logs")
    logs.mkdir(parents=True)
    for name in ("ingest.log", "pretrain.traceback.txt", "error-20260101-000000-1.txt", "web-server.log"):
        (logs / name).touch()
    erase.purge(lambda: None)
    assert [log.name for log in logs.iterdir()] == ["web-server.log"]


def test_what_has_no_bytes_is_not_recorded_by_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is erased already, asked for once more, does not have every empty text erased."""
    monkeypatch.chdir(tmp_path)
    gone = Rejection("documents", "a" * 64, 0, erasures.REASON, "a" * 64)
    write_rejections(Path("data/quarantine/ingest"), [gone], stage="ingest")
    erasures.FILE.write_text(f"document {gone.name}\n")
    erase.record(erase.find([gone.name], None, []))
    assert erasures.FILE.read_text() == f"document {gone.name}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_any_kind_is_erased(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id: the record never passes again, nor does a copy of it from another split or source."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / trace.FILES[kind][0] / "ingested"
    folder.mkdir(parents=True)
    erasures.FILE.write_text("")
    names = [field.name for field in dataclasses.fields(KINDS[kind]) if field.name != "id"]
    beside = "source" if kind == "documents" else "split"
    values = {name: f"{CANARY} {name}" for name in names}
    if kind == "conversations":
        values["messages"] = written_turns([{"role": "user", "content": f'{CANARY}\n"messages"'}])
    make: Any = KINDS[kind]
    record, copy = make.of(**values), make.of(**{**values, beside: "another"})
    write_records([record, copy], KINDS[kind], folder / f"{kind}.parquet")
    found = erase.find([record.id[:10]], None, [])
    assert [[t.id for t in found.records], [t.id for t in found.copies]] == [[record.id], [copy.id]]
    assert {erasures.text_digest(erasures.learned_text(record))} == {t.text_digest for t in found.records}
    erase.record(found)
    third = make.of(**{**values, beside: "a third"})
    assert [type(r) for r in erasures.honoured([record, copy, third], erasures.load())] == [Rejection] * 3


def test_many_records_are_erased_as_one_is(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many files are opened for forty records, and to see that they are gone, as for one."""
    opened = []
    open_file = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *a, **k: opened.append(a[0]) or open_file(*a, **k))
    versions = [RegisteredVersion("base", n, (), "language-model", {"tokens": f"{n:064}"}) for n in range(3)]
    documents = list(read_records(made.path("documents/clean/documents.parquet"), Document))
    counts = []
    with contextlib.chdir(made.root):
        for some in (documents[:1], documents):
            opened.clear()
            erase.record(erase.find([document.id for document in some], None, versions))
            with pytest.raises(DataError, match=f"{len(some)} erased records are still in data/"):
                erase.purge(lambda: None)
            counts.append(len(opened))
    assert counts[0] == counts[1]


def test_what_stands_nowhere_cannot_be_erased(made: Any) -> None:
    """An id or a text that no record has is a DataError, and the text is not repeated."""
    with contextlib.chdir(made.root):
        with pytest.raises(DataError, match="no record has an id that begins with abcdef"):
            erase.find(["abcdef"], None, [])
        with pytest.raises(DataError) as caught:
            erase.find([], CANARY, [])
    assert "Brandwater" not in str(caught.value)
