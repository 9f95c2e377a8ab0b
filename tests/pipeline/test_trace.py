"""A record can be followed from its source to its tokens and to the models that met it."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import encodings, manifest, trace
from pipeline.cleaning.rejections import Rejection
from pipeline.documents import KINDS, LEARNED, Document, Message, Record, read_records, write_records
from pipeline.erasures import learned_text, text_digest
from pipeline.errors import DataError
from pipeline.quarantine import write_rejections
from pipeline.shards import map_shard
from pipeline.sightings import MEASURED, TRAINED, UNKNOWN, sightings
from pipeline.tracking.lineage_tags import RegisteredVersion

TEXT = "The cat sleeps in the barn, café 🌍 barn."


def documents_of(project: Any) -> list[Document]:
    return list(read_records(project.path("documents/ingested/documents.parquet"), Document))


def test_every_document_is_found_by_its_id_and_its_tokens_spell_it(made: Any) -> None:
    """The shard and the offset that trace names hold exactly the document's tokens."""
    encoding = encodings.load_encoding(made.path("tokens") / encodings.RANKS_FILE)
    for document in documents_of(made):
        [found] = trace.by_id(document.id[:12], made.path(""))
        assert (found.id, found.source, found.licence) == (document.id, "texts", "CC0-1.0")
        assert (found.kind, found.name, found.verdict, found.match) == ("documents", document.name, "kept", "id")
        assert found.tokens and len(found.tokens.shards) == 1
        shard = map_shard(made.path("tokens") / found.tokens.shards[0], encoding.n_vocab)
        ids = shard[found.tokens.offset : found.tokens.offset + found.tokens.n_tokens].tolist()
        assert encoding.decode(ids[:-1]) == document.text.rstrip("\n")
        assert ids[-1] == encoding.eot_token


def test_a_document_over_a_shard_s_end_names_both_shards(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a shard cannot hold more, a document begins in it and ends in the next, and is said to lie in both."""
    monkeypatch.setattr("pipeline.shards.MAX_SHARD_TOKENS", 65_536)
    for number in range(80):
        words = " ".join(f"{number * 7919 * k % 100_003}" for k in range(1, 700))
        (made.root / "texts" / f"long-{number}.txt").write_text(words)
    for stage in ("ingest", "clean"):
        made.run(stage)
    made.vouch()
    made.run("tokenize")
    places = trace.token_places(made.path("tokens"), [d.id for d in documents_of(made)])
    assert len(places) == 120
    across = [place for place in places.values() if len(place.shards) == 2]
    assert across and all(p.offset + p.n_tokens > 65_536 for p in across)


def test_a_text_is_found_whole_or_in_part(made: Any) -> None:
    """The same letters in another case and spacing equal; a part of the text is contained; and it is said which."""
    [equal] = trace.by_text(TEXT.upper().replace(" ", "\n"), made.path(""))
    contained = trace.by_text("cat sleeps in the", made.path(""))
    assert (equal.match, equal.name) == ("equals", "cat-barn.txt")
    assert [(t.match, t.name[:4]) for t in contained] == [("contains", "cat-")] * 5


def test_what_was_turned_away_is_found_with_its_reason(made: Any) -> None:
    """A duplicate is found in clean's quarantine, bytes that are no text in ingest's."""
    (made.root / "texts" / "zz-copy.txt").write_text(TEXT + "\n")
    (made.root / "texts" / "zz-bad.txt").write_bytes(b"a telling phrase \xff")
    made.run("ingest")
    made.run("clean")
    first, copy = trace.by_text(TEXT, made.path(""))
    assert (copy.name, copy.verdict, copy.quarantine) == ("zz-copy.txt", f"exact duplicate of {first.id}", "clean")
    assert copy.tokens is None
    [refused] = trace.by_text("a telling phrase", made.path(""))
    assert (refused.kind, refused.name, refused.quarantine) == (trace.REFUSED, "zz-bad.txt", "ingest")
    assert trace.by_id(refused.id, made.path("")) == [replace(refused, match="id")]
    assert [t.id for t in trace.copies_of([first], made.path(""))] == [copy.id]


def test_an_id_must_mean_one_record(made: Any) -> None:
    """Too short a beginning, and one that no record has, are told apart."""
    with pytest.raises(DataError, match="too short"):
        trace.by_id("a", made.path(""))
    assert trace.by_id("f" * 64, made.path("")) == []
    assert trace.by_text("nobody wrote this", made.path("")) == []


def test_the_models_that_met_a_document_are_named(made: Any) -> None:
    """A training document reaches every model; a held-out one was measured on; a message reaches the classifier."""
    with contextlib.chdir(made.root):
        seen = {}
        for document in documents_of(made):
            [found] = trace.by_id(document.id)
            assert found.tokens
            seen[found.tokens.split] = [(s.model, s.how) for s in sightings([found], [])[found.id]]
        models = [f"checkpoints/{name}" for name in ("assistant", "base", "spam")]
        assert seen == {
            "train": [(model, TRAINED) for model in models],
            "validation": [(model, MEASURED) for model in models],
        }
        how = {}
        for message in read_records(made.path("examples/clean/messages.parquet"), Message):
            [found] = trace.by_id(message.id)
            how[message.split] = [(s.model, s.how) for s in sightings([found], [])[found.id]]
        assert how == {
            "train": [("checkpoints/spam", TRAINED)],
            "validation": [("checkpoints/spam", MEASURED)],
            "test": [("checkpoints/spam", MEASURED)],
        }


def test_what_cannot_be_known_is_not_guessed(made: Any) -> None:
    """A version made from tokens that are gone may have seen the document; one made from present tokens did."""
    digest = made.manifest("tokens").digest
    versions = [
        RegisteredVersion("base", 1, (), "language-model", {"tokens": "0" * 64}),
        RegisteredVersion("base", 2, ("champion",), "language-model", {"tokens": digest}),
    ]
    with contextlib.chdir(made.root):
        found = next(t for d in documents_of(made) for t in trace.by_id(d.id) if t.split == "train")
        assert [(s.version, s.how) for s in sightings([found], versions)[found.id] if s.version] == [
            (1, UNKNOWN),
            (2, TRAINED),
        ]
        # One that only an earlier corpus held, and this one's tokens do not.
        assert sightings([trace.absent("e" * 64)], versions[1:]) == {"e" * 64: []}


def record_of(kind: str) -> Record:
    """A record of this kind, with two lines in each of its texts."""
    values = {field.name: f"the {kind}" for field in fields(KINDS[kind]) if field.name != "id"}
    values |= {name: f'A "{name}"\nof the {kind}' for name in LEARNED[KINDS[kind]]}
    if kind == "conversations":
        turns = [{"role": "user", "content": values["messages"]}]
        values["messages"] = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
    if "split" in values:
        values["split"] = "train"
    return KINDS[kind].of(**values)


def write_example(data: Path, kind: str) -> Record:
    """An example that was cleaned, and a model of each task that learned from the examples."""
    record = record_of(kind)
    with manifest.commit(data / "examples/ingested", "examples") as draft:
        write_records([record], KINDS[kind], draft.path / f"{kind}.parquet")
    with manifest.commit(data / "examples/clean", "examples", inputs={"ingested": data / "examples/ingested"}) as draft:
        write_records([record], KINDS[kind], draft.path / f"{kind}.parquet")
    for task in ("classification", "instructions", "preferences", "language-model"):
        with manifest.commit(
            data / "checkpoints" / task, "checkpoint", inputs={"examples": data / "examples/clean"}
        ) as draft:
            draft.facts["task"] = task
    return record


def test_a_model_met_what_is_of_its_data_sets(tmp_path: Path) -> None:
    """Of two classifiers made from the same examples the one that learned from others never met it, nor its version."""
    record: Any = write_example(tmp_path, "messages")
    for name, datasets in (("mine", [record.dataset]), ("another", ["another"])):
        inputs = {"examples": tmp_path / "examples/clean"}
        with manifest.commit(tmp_path / "checkpoints" / name, "checkpoint", inputs=inputs) as draft:
            draft.facts |= {"task": "classification", "datasets": datasets}
    shutil.rmtree(tmp_path / "checkpoints/classification")
    lineage = {"examples.clean": manifest.read(tmp_path / "examples/clean").digest}
    versions = [
        RegisteredVersion(
            name,
            1,
            (),
            "classification",
            {**lineage, f"checkpoints.{name}": manifest.read(tmp_path / "checkpoints" / name).digest},
        )
        for name in ("mine", "another")
    ]
    [found] = trace.by_id(record.id, tmp_path)
    met = sightings([found], versions, tmp_path, tmp_path / "cache")[record.id]
    assert [(s.model, s.version) for s in met] == [("checkpoints/mine", None), ("mine", 1)]


LEARNED_BY = {
    "messages": "classification",
    "instructions": "instructions",
    "conversations": "instructions",
    "translations": "instructions",
    "questions": "instructions",
    "preferences": "preferences",
}


def test_every_kind_of_record_can_be_followed() -> None:
    """What is known of kinds is known of all of them."""
    assert list(trace.FILES) == list(KINDS) == ["documents", *LEARNED_BY]


@pytest.mark.parametrize("kind", LEARNED_BY)
def test_an_example_of_any_kind_is_found_and_so_is_its_model(kind: str, tmp_path: Path) -> None:
    """By its id and by a phrase over two lines; only a model of the task that learns from this kind met it."""
    record = write_example(tmp_path, kind)
    [found] = trace.by_id(record.id, tmp_path)
    assert (found.kind, found.source, found.verdict, found.split) == (kind, f"the {kind}", "kept", "train")
    assert found.text_digest == text_digest(learned_text(record))
    [by_phrase] = trace.by_text(f'"\nof the {kind}', tmp_path)
    assert by_phrase == replace(found, match="contains")
    assert [(s.model, s.how) for s in sightings([found], [], tmp_path)[found.id]] == [
        (f"checkpoints/{LEARNED_BY[kind]}", TRAINED)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_record_of_any_kind_is_no_refused_bytes(kind: str, tmp_path: Path) -> None:
    """What clean turned away is one of ours, known by its id and by its text without what stands beside it."""
    record = record_of(kind)
    raw = "\0".join(getattr(record, field.name) for field in fields(record)).encode()
    dropped = Rejection.of(source=kind, name=record.id, reason="too short", raw=raw)
    write_rejections(tmp_path / "quarantine/clean", [dropped], stage="clean")
    [found] = trace.by_id(record.id[:9], tmp_path)
    assert (found.id, found.kind, found.quarantine) == (record.id, kind, "clean")
    assert found.text_digest == text_digest(learned_text(record))


def test_a_record_that_was_ingested_twice_is_one_record(tmp_path: Path) -> None:
    """It has one id, so the id means it, and its text finds it once."""
    record = record_of("messages")
    with manifest.commit(tmp_path / "examples/ingested", "examples") as draft:
        write_records([record, record], Message, draft.path / "messages.parquet")
    [found] = trace.by_id(record.id, tmp_path)
    assert trace.by_text('A "text"', tmp_path) == [replace(found, match="contains")]
    assert trace.copies_of([replace(found, id="another")], tmp_path) == [replace(found, match="equals")]


def test_each_refused_row_of_a_file_is_found(tmp_path: Path) -> None:
    """Rows are named by the sha256 of their file, which finds them all; a phrase finds each that holds it."""
    rows = [
        Rejection.of(source="texts", name=f"a.jsonl:{n}", reason="no text", raw=f"phrase {n}".encode(), sha256="a" * 64)
        for n in (1, 2)
    ]
    write_rejections(tmp_path / "quarantine/ingest", rows, stage="ingest")
    for found in (trace.by_id("a" * 64, tmp_path), trace.by_text("phrase", tmp_path)):
        assert [t.name for t in found] == ["a.jsonl:1", "a.jsonl:2"]


def test_an_id_that_two_records_begin_with_is_refused(tmp_path: Path) -> None:
    """Then more of it must be given."""
    records = [Message("abcdef" + digit * 58, "d", "train", "ham", digit) for digit in "12"]
    with manifest.commit(tmp_path / "examples/ingested", "examples") as draft:
        write_records(records, Message, draft.path / "messages.parquet")
    with pytest.raises(DataError, match="2 records have an id that begins with ABCDEF"):
        trace.by_id("ABCDEF", tmp_path)
    assert [t.id[:7] for t in trace.by_id("ABCDEF2", tmp_path)] == ["abcdef2"]


def test_a_model_met_what_its_start_learned(tmp_path: Path) -> None:
    """One that learned to prefer, after it learned instructions, met those too, in data/ and in the registry."""
    record = write_example(tmp_path, "instructions")
    start = tmp_path / "checkpoints/instructions"
    inputs = {"start": start, "examples": tmp_path / "examples/clean"}
    with manifest.commit(tmp_path / "checkpoints/polite", "checkpoint", inputs=inputs) as draft:
        draft.facts["task"] = "preferences"
    lineage = {"checkpoints.instructions": manifest.read(start).digest}
    lineage["examples.clean"] = manifest.read(tmp_path / "examples/clean").digest
    version = RegisteredVersion("polite", 1, (), "preferences", lineage)
    [found] = trace.by_id(record.id, tmp_path)
    met = [(s.model, s.how) for s in sightings([found], [version], tmp_path)[record.id]]
    assert met == [("checkpoints/instructions", TRAINED), ("checkpoints/polite", TRAINED), ("polite", TRAINED)]
