"""Ingest takes what it can read, keeps what it cannot, and never calls nothing something."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import manifest, trace
from pipeline.documents import KINDS, Document, Instruction, Message, read_records
from pipeline.errors import ConfigurationError, DataError, IntegrityError

CANARY = "SECRET-CANARY-4242"


def test_every_record_is_kept_or_quarantined(fresh: Any) -> None:
    """Records in are records out and records quarantined, each with its place, its reason and its bytes."""
    (fresh.root / "texts" / "bad.txt").write_bytes(f"{CANARY} caf\xe9".encode("latin-1"))
    (fresh.root / "texts" / "picture.png").write_bytes(b"\x89PNG")
    (fresh.root / "texts" / "away.txt").symlink_to("/etc/hostname")
    messages = fresh.path("samples/spam/train.jsonl")
    messages.write_text(messages.read_text() + f'{{"text": "{CANARY}", "label": "eggs"}}\n{{"text": \n')
    instructions = fresh.path("samples/instructions/test.jsonl")
    instructions.write_text('{"instruction": 3, "input": "", "response": ""}\n' + instructions.read_text())
    report = fresh.run("ingest")

    documents = list(read_records(fresh.path("documents/ingested/documents.parquet"), Document))
    turned_away = pq.read_table(fresh.path("quarantine/ingest/rejections.parquet")).to_pylist()
    assert (len(documents), len(turned_away)) == (40, 6)
    assert [(row["name"], row["offset"]) for row in turned_away[:3]] == [
        ("away.txt", 0),
        ("bad.txt", len(CANARY) + 4),
        ("picture.png", 0),
    ]
    assert turned_away[1]["raw"] == f"{CANARY} caf\xe9".encode("latin-1")
    assert [row["name"] for row in turned_away[3:]] == ["train.jsonl", "train.jsonl", "test.jsonl"]
    assert report.numbers == {"documents": 40, "turned_away": 6}
    facts = fresh.manifest("documents/ingested").facts
    assert (facts["documents"], facts["by_source"]) == (40, {"texts": 40})
    assert facts["sources"]["texts"] | {"sha256": "", "bytes": 0} == {
        "files": 41, "bytes": 0, "repeated_files": 0, "sha256": "", "records": 40, "turned_away": 3,
        "licence": "CC0-1.0", "origin": "ingest.texts",
    }  # fmt: skip
    assert fresh.manifest("examples/ingested").facts == {"messages": 36, "instructions": 18}
    assert CANARY not in "\n".join(report.notes)


def test_records_come_in_order(fresh: Any) -> None:
    """Documents come by their paths, messages and instructions by split and line."""
    fresh.run("ingest")
    documents = list(read_records(fresh.path("documents/ingested/documents.parquet"), Document))
    assert [d.name for d in documents] == sorted(p.name for p in (fresh.root / "texts").iterdir())
    assert (documents[0].licence, documents[0].text) == ("CC0-1.0", "The ant sleeps in the barn, café 🌍 barn.\n")
    for kind, name, dataset in ((Message, "messages", "spam"), (Instruction, "instructions", "instructions")):
        rows: list[Any] = list(read_records(fresh.path(f"examples/ingested/{name}.parquet"), kind))
        expected = [
            (split, json.loads(line))
            for split in ("train", "validation", "test")
            for line in fresh.path(f"samples/{dataset}/{split}.jsonl").read_text().splitlines()
        ]
        assert [
            (row.split, {k: getattr(row, k) for k in said}) for row, (_, said) in zip(rows, expected, strict=True)
        ] == expected


def test_the_same_sources_give_the_same_artefacts(fresh: Any) -> None:
    """Running again on the same files gives equal digests, though the files are a second later."""
    fresh.run("ingest")
    first = fresh.digests()
    for path in fresh.root.rglob("*.txt"):
        path.touch()
    fresh.forget()
    fresh.run("ingest")
    assert fresh.digests() == first
    assert set(first) == {"documents/ingested", "examples/ingested", "quarantine/ingest"}


@pytest.mark.parametrize("texts", [{}, {"a.txt": b"\xff"}, {"a.xyz": b"?"}])
def test_no_document_is_an_error_and_what_was_refused_is_kept(fresh: Any, texts: dict[str, bytes]) -> None:
    """An empty folder, or one of which nothing can be read, is a DataError; the refused files are there to look at."""
    for path in (fresh.root / "texts").iterdir():
        path.unlink()
    for name, content in texts.items():
        (fresh.root / "texts" / name).write_bytes(content)
    with pytest.raises(
        DataError, match=r"ingest: no document could be read \(.*look at ingest\.sources and ingest\.texts"
    ):
        fresh.run("ingest")
    assert not fresh.path("documents/ingested").exists()
    rows = pq.read_table(fresh.path("quarantine/ingest/rejections.parquet")).to_pylist()
    assert [row["name"] for row in rows] == list(texts)


def test_no_example_is_an_error(fresh: Any) -> None:
    """If every line of the messages is refused, the stage fails, names the folder and keeps the lines."""
    for split in ("train", "validation", "test"):
        fresh.path(f"samples/spam/{split}.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match=r"samples/spam: no example could be read \(3 × is a list, not a JSON object"):
        fresh.run("ingest")
    assert not fresh.path("examples/ingested").exists()
    assert fresh.manifest("quarantine/ingest").facts["rejections"] == 3


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("texts", "ingest.texts: .*texts does not exist"),
        ("data/samples/spam", r"data/samples: there is no folder of messages \(spam, sentiment\)"),
    ],
)
def test_a_missing_folder_is_a_wrong_setting(fresh: Any, missing: str, said: str) -> None:
    """A folder that is not there is a ConfigurationError that names the key to correct."""
    (fresh.root / missing).rename(fresh.root / "elsewhere")
    with pytest.raises(ConfigurationError, match=said):
        fresh.run("ingest")
    assert not fresh.path("documents/ingested").exists() or missing != "texts"


@pytest.mark.parametrize("sources", [[], ["texts", "texts"], ["text"]])
def test_sources_are_some_of_the_known_ones_once_each(fresh: Any, sources: list[str]) -> None:
    """No source, one twice or an unknown one is refused before anything is read."""
    with pytest.raises(ConfigurationError, match="ingest"):
        fresh.run("ingest", sources=sources)


def test_every_source_names_itself(fresh: Any) -> None:
    """Documents of two sources stand one after the other, in the order of ingest.sources, and are counted apart."""
    fresh.run("ingest", sources=["texts", "python-topics"])
    counts = fresh.manifest("documents/ingested").facts["by_source"]
    sources = [d.source for d in read_records(fresh.path("documents/ingested/documents.parquet"), Document)]
    assert sources == ["texts"] * counts["texts"] + ["python-topics"] * counts["python-topics"]
    assert (counts["texts"], counts["python-topics"] > 50) == (40, True)


def test_an_interrupted_run_leaves_the_earlier_artefact(
    fresh: Any, sha256_of: Callable[[Path], dict[str, str]]
) -> None:
    """If the second run fails half-way, what the first one made is untouched."""
    fresh.run("ingest")
    before = sha256_of(fresh.path("documents"))
    (fresh.root / "texts").rename(fresh.root / "elsewhere")
    with pytest.raises(ConfigurationError):
        fresh.run("ingest")
    assert sha256_of(fresh.path("documents")) == before
    manifest.verify(fresh.path("documents/ingested"))


def entry(path: str, kind: str, **more: Any) -> dict[str, Any]:
    """An entry of the catalogue."""
    return {"path": path, "kind": kind, "licence": "MIT", "origin": "a colleague", **more}


KIND_ROWS = {
    "messages": {"text": "Win!", "label": "spam"},
    "instructions": {"instruction": "Add 1 and 2", "output": "3"},
    "conversations": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    "translations": {"source": "cat", "target": "Katze"},
    "questions": {"question": "Who?", "context": "I am.", "answer": "I"},
    "preferences": {"prompt": "p", "chosen": "c", "rejected": "r"},
}


def test_every_kind_comes_in_by_the_same_door_and_passes_the_next(fresh: Any) -> None:
    """Each kind of example has a file where a source gives it, and clean hands every one on."""
    catalogue = {}
    for kind, row in KIND_ROWS.items():
        (fresh.root / "texts" / "more").mkdir(exist_ok=True)
        (fresh.root / "texts" / "more" / f"{kind}.jsonl").write_text(json.dumps(row) + "\nbroken\n")
        languages = {"languages": ["en", "de"]} if kind == "translations" else {}
        catalogue[f"my-{kind}"] = entry(f"{fresh.root}/texts/more/{kind}.jsonl", kind, **languages)
    fresh.run("ingest", sources=["texts", *catalogue], texts=str(fresh.root / "texts"), catalogue=catalogue)
    facts = fresh.manifest("examples/ingested").facts
    counts = {kind: facts[kind] for kind in KIND_ROWS}
    assert counts == {"messages": 37, "instructions": 19} | dict.fromkeys(list(KIND_ROWS)[2:], 1)
    assert facts["sources"]["my-questions"]["turned_away"] == 1
    # What lies at a catalogue's place is that source's, and no document as well.
    assert fresh.manifest("documents/ingested").facts["sources"]["texts"]["files"] == 40
    fresh.run("clean")
    for kind, record in KINDS.items():
        if kind != "documents":
            rows: list[Any] = list(read_records(fresh.path(f"examples/clean/{kind}.parquet"), record))
            assert len(rows) == counts[kind]
            [own] = [row.id for row in rows if row.dataset == f"my-{kind}"]
            [found] = trace.by_id(own, fresh.path(""))
            assert (found.source, found.licence, found.verdict) == (f"my-{kind}", "MIT", "kept")


@pytest.mark.slow
def test_a_folder_in_the_hubs_layout_is_not_read_twice(fresh: Any) -> None:
    """What lies in `ingest.texts` and is a source of the catalogue is no document of the texts as well."""
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    folder = fresh.root / "texts" / "layout"
    folder.mkdir()
    (folder / "README.md").write_text("# Not a document\n")
    (folder / "train.jsonl").write_text('{"text": "of the layout"}\n')
    catalogue = {"mine": entry(f"huggingface:{folder}", "documents")}
    fresh.run("ingest", sources=["texts", "mine"], texts=str(fresh.root / "texts"), catalogue=catalogue)
    found = read_records(fresh.path("documents/ingested/documents.parquet"), Document)
    assert [(each.source, each.text) for each in found if "ayout" in each.name or "ayout" in each.text] == [
        ("mine", "of the layout")
    ]
    assert fresh.manifest("documents/ingested").facts["sources"]["texts"]["files"] == 40


def test_sources_come_in_the_order_of_params_with_licence_and_origin(fresh: Any) -> None:
    """Each document says its source, its licence and its origin; the manifest says what was read of each source."""
    own = fresh.root / "texts" / "own.csv"
    own.write_text("body\nfrom a table\n")
    catalogue = {"mine": entry(str(own), "documents", fields={"text": "body"})}
    fresh.run("ingest", sources=["mine", "texts"], texts=str(fresh.root / "texts"), catalogue=catalogue)
    first, second, *_ = read_records(fresh.path("documents/ingested/documents.parquet"), Document)
    assert (first.source, first.licence, first.origin) == ("mine", "MIT", "a colleague")
    assert (first.name, first.text) == ("own.csv:2", "from a table")
    assert (second.source, second.licence, second.origin) == ("texts", "CC0-1.0", "ingest.texts")
    facts = fresh.manifest("documents/ingested").facts["sources"]["mine"]
    assert facts == {
        "files": 1, "bytes": 18, "repeated_files": 0, "records": 1, "turned_away": 0, "licence": "MIT",
        "origin": "a colleague", "sha256": hashlib.sha256(own.read_bytes()).hexdigest(),
    }  # fmt: skip


def test_an_archive_may_stand_for_the_folder(fresh: Any) -> None:
    """`ingest.texts` may be one archive; its documents have the folder's texts."""
    fresh.run("ingest")
    place = "documents/ingested/documents.parquet"
    folder = [document.text for document in read_records(fresh.path(place), Document)]
    with tarfile.open(fresh.root / "texts.tar.xz", "w:xz") as archive:
        for path in sorted((fresh.root / "texts").iterdir()):
            archive.add(path, path.name)
    shutil.rmtree(fresh.root / "texts")
    (fresh.root / "texts.tar.xz").rename(fresh.root / "texts")  # the stage is told a path, whose name decides
    with pytest.raises(DataError, match="its name tells no format"):
        fresh.run("ingest")
    (fresh.root / "texts").rename(fresh.root / "texts.tar.xz")
    (fresh.root / "texts").symlink_to("texts.tar.xz")
    with pytest.raises(DataError, match="its name tells no format"):
        fresh.run("ingest")
    catalogue = {"packed": entry(str(fresh.root / "texts.tar.xz"), "documents", sha256=sha256_of_file(fresh.root))}
    fresh.run("ingest", sources=["packed"], catalogue=catalogue)
    assert [document.text for document in read_records(fresh.path(place), Document)] == folder


def sha256_of_file(root: Path) -> str:
    """The digest of the archive."""
    return hashlib.sha256((root / "texts.tar.xz").read_bytes()).hexdigest()


def test_content_that_is_not_what_was_pinned_stops_the_run(fresh: Any) -> None:
    """A pinned file that changed is an IntegrityError that names the entry; nothing is written."""
    catalogue = {"mine": entry(str(fresh.root / "texts" / "cat-barn.txt"), "documents", sha256="0" * 64)}
    with pytest.raises(
        IntegrityError, match=r"ingest\.catalogue\.mine\.path: what is read has sha256 .*, expected 0000"
    ):
        fresh.run("ingest", sources=["mine"], texts=str(fresh.root / "texts"), catalogue=catalogue)
    assert not fresh.path("documents/ingested").exists()


def test_private_text_stays_out_of_what_is_said(fresh: Any) -> None:
    """A canary in damaged files of every sort is in the quarantine and in no note, number or name."""
    texts = fresh.root / "texts"
    for name, content in {
        "a.jsonl": f'{{"text": "{CANARY}", }}\n{{"txt": "{CANARY}"}}\n', "b.csv": f'text\n"{CANARY}\n',
        "c.json": f'[{{"text": "{CANARY}"', "d.html": f"{CANARY}\udcff", "e.pdf": f"%PDF-1.4 {CANARY}",
        "f.docx": CANARY, "g.parquet": f"PAR1{CANARY}PAR1", "h.arrow": CANARY, "i.warc": f"WARC/1.0\n{CANARY}",
        "j.jsonl.gz": CANARY, "k.tar": CANARY, "l.zip": CANARY, "m.xyz": CANARY,
    }.items():  # fmt: skip
        (texts / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    report = fresh.run("ingest")
    assert report.numbers == {"documents": 40, "turned_away": 14}
    table = pq.read_table(fresh.path("quarantine/ingest/rejections.parquet"))
    assert CANARY not in "\n".join(report.notes) + repr(table.drop_columns("raw").to_pylist())
    assert sum(CANARY.encode() in raw for raw in table["raw"].to_pylist()) == 13
