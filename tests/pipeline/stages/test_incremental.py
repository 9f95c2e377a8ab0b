"""A corpus that changes costs the work of the change, and gives the bytes of a full run."""

from __future__ import annotations

import contextlib
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import encodings, remembered_shards
from pipeline.cleaning import personal_data, words
from pipeline.document_tokens import ShardMaker, split_of
from pipeline.encoder import Encoder
from pipeline.import_closure import import_closure
from pipeline.shards import read_index
from pipeline.sources import html, isolation
from tests.pipeline.conftest import ANIMALS, PLACES, REPOSITORY

pytestmark = pytest.mark.slow  # every law cleans several times

PROSE = "Some words that say nothing much, but there are enough of them here to be a page of its own, number {}."
# No rule of these tests drops them, so that something is left of every corpus, for training and held out.
GOOD = "The cat of this house sleeps in the barn all day, and the dog has to be awake with it. " * 4
TOO = "An owl of that forest reads a long letter to the hens at night, and they have to listen with care. " * 4
TEXTS = [
    *(PROSE.format(number) for number in ("one", "two")),
    PROSE.format("three") + " Write to ada@lovelace.net, or ada@byron.org. ",
    "Trailing   \r\nspaces\tand 192.168.0.1, 8.8.8.8\n\n",
    "Der Hund schläft heute im Haus, und die Katze wacht im Garten über die Vögel.",
    "short",
    "",
    "Held out for the test: one two three four five six seven eight nine ten eleven twelve thirteen fourteen.",
]
RULES: list[dict[str, Any]] = [
    {},
    {"near_duplicates": "drop"},
    {"near_duplicates": "keep_in_one_split", "drop_duplicates": False},
    {"email_addresses": "mask", "ip_addresses": "drop"},
    {"quality": ["gopher-words", "c4-lines"], "near_duplicates": "drop"},
    {"drop_contaminated": True},  # with a text of its own to look for, see below
    {"drop_contaminated": False, "near_duplicates": "keep"},
]
INGESTED = ("documents/ingested", "examples/ingested", "quarantine/ingest")
CLEAN = ("documents/clean", "examples/clean", "quarantine/clean")


def lay_out(root: Path, chosen: dict[int, str]) -> None:
    """A corpus of these texts by number, and two good ones."""
    shutil.rmtree(root / "texts")
    (root / "texts").mkdir()
    for number, text in ({0: GOOD, 10: TOO} | chosen).items():
        (root / "texts" / f"{number}.txt").write_text(text, newline="")


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.dictionaries(st.integers(1, 9), st.sampled_from(TEXTS), max_size=6), st.sampled_from(RULES)),
        min_size=2,
        max_size=3,
    )
)
def test_with_a_memory_everything_is_as_without(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, runs: list[tuple[dict[int, str], dict[str, Any]]]
) -> None:
    """Through any sequence of edits to corpus and rules, every artefact and every refusal is that of a full run."""
    monkeypatch.setattr("pipeline.sources.known_files.SETTLED_NS", 0)
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 600)  # a document or two to a part
    held_out = fresh.path("evaluation_texts")
    for chosen, rules in runs:
        lay_out(fresh.root, chosen)
        shutil.rmtree(held_out, ignore_errors=True)
        if "drop_contaminated" in rules:
            held_out.mkdir()
            (held_out / "held-out.txt").write_text(TEXTS[-1] + "\n")
        found = as_made(fresh, **rules)
        remembered = fresh.path("scratch/memo")
        shutil.move(remembered, fresh.root / "kept")
        assert as_made(fresh, **rules) == found
        shutil.rmtree(remembered)
        shutil.move(fresh.root / "kept", remembered)


def as_made(project: Any, **rules: Any) -> list[Any]:
    """Every artefact from ingest to tokenize; the vocabulary is given, and half of the documents held out."""
    if not (ranks := project.root / "own.tiktoken").exists():
        encodings.write_ranks(encodings.train_ranks([GOOD], 260), ranks)
    project.run("ingest")
    project.run("clean", **rules)
    project.vouch()
    project.run("tokenize", ranks=str(ranks), validation_fraction=0.5)
    return [project.manifest(name) for name in (*INGESTED, *CLEAN, "tokens")]


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that was really looked at for personal data or laid out for the rules of words."""
    seen: list[str] = []
    examine, batch = personal_data.examine, words.Batch

    def counting(text: str, policies: Any) -> Any:
        seen.append(text)
        return examine(text, policies)

    def laying_out(texts: list[str]) -> Any:
        seen.extend(texts)
        return batch(texts)

    monkeypatch.setattr(personal_data, "examine", counting)
    monkeypatch.setattr(words, "Batch", laying_out)
    return seen


def test_only_what_is_new_is_looked_at(fresh: Any, worked_out: list[str]) -> None:
    """A second run looks at nothing, a third at the new text alone; other policies or other code, at everything."""
    lay_out(fresh.root, {1: TEXTS[0]})
    fresh.run("ingest")
    fresh.run("clean", drop_contaminated=False, near_duplicates="drop")
    worked_out.clear()
    lay_out(fresh.root, {1: TEXTS[0], 2: TEXTS[2]})
    fresh.run("ingest")
    fresh.run("clean", drop_contaminated=False, near_duplicates="drop")
    assert worked_out == [TEXTS[2].rstrip()] * 2
    worked_out.clear()
    fresh.run("clean", drop_contaminated=False, near_duplicates="drop")
    assert worked_out == []
    fresh.run("clean", drop_contaminated=False, near_duplicates="drop", secrets="mask")
    assert len(set(worked_out)) > 50


def test_edited_code_is_never_believed(fresh: Any, worked_out: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """When a file that holds a rule was edited, its verdicts are worked out again."""
    fresh.run("ingest")
    fresh.run("clean")
    for module in ("examination", "tables"):
        monkeypatch.setattr(f"pipeline.cleaning.{module}.code_of", lambda module: "what it would be of that file")
    worked_out.clear()
    fresh.run("clean")
    assert len(worked_out) > 40


@pytest.mark.parametrize(
    ("maker", "loads"),
    [
        ("pipeline.cleaning.personal_data", ["cleaning/secrets"]),
        ("pipeline.cleaning.judgements", ["cleaning/gopher", "cleaning/repetition", "cleaning/words"]),
        ("pipeline.sources.formats", ["sources/html", "sources/pdf", "sources/text"]),
    ],
)
def test_the_code_of_what_is_remembered_is_all_that_its_maker_loads(maker: str, loads: list[str]) -> None:
    """A rule that is split into two files is known by both."""
    assert {Path(f"pipeline/{name}.py") for name in loads} <= set(import_closure(maker, REPOSITORY))


def test_a_memory_that_is_a_lie_does_not_reach_the_documents(fresh: Any) -> None:
    """What is altered in the memory is found out by its digest, and the artefacts are those of a full run."""
    before = as_made(fresh, near_duplicates="drop")
    for path in [path for path in fresh.path("scratch/memo").rglob("*") if path.is_file()]:
        altered = bytes(byte ^ 1 for byte in path.read_bytes())
        path.unlink()  # or an artefact would be altered with it
        path.write_bytes(altered)
    assert as_made(fresh, near_duplicates="drop") == before


def test_only_parts_that_changed_are_encoded(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run encodes nothing, a third what is new and, of what stands beside it, no more than a shard."""
    encoded: list[bytes] = []
    encode = Encoder.__call__

    def counting(self: Encoder, text: bytes) -> Any:
        encoded.append(text)
        return encode(self, text)

    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 600)
    monkeypatch.setattr(Encoder, "_agrees", lambda self, texts: True)
    monkeypatch.setattr(Encoder, "__call__", counting)
    as_made(fresh)
    assert len(encoded) == 40
    encoded.clear()
    as_made(fresh)
    assert encoded == []
    (fresh.root / "texts" / "new.txt").write_text(GOOD)
    as_made(fresh)
    assert GOOD.rstrip().encode() in encoded
    assert len(encoded) < 20


def test_a_document_goes_with_its_group_though_its_part_is_known(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that came alone, and now nearly repeats one before it, is on that one's side, in a shard made anew."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 1)  # each document is a part
    tale = " ".join(f"Then the {animal} came to the {place}." for animal in ANIMALS for place in PLACES)
    variants = [f"{tale} That was {number}." for number in range(9)]
    first = next(text for text in variants if split_of(text, 0.5) == "validation")
    like_it = next(text for text in variants if split_of(text, 0.5) == "train")

    def training_documents() -> set[str]:
        as_made(fresh, near_duplicates="keep_in_one_split")
        return set(read_index(fresh.path("tokens"), "train")["id"].to_pylist())

    lay_out(fresh.root, {5: like_it})
    alone = training_documents()
    (fresh.root / "texts" / "4.txt").write_text(first)
    assert len(alone - training_documents()) == 1


def test_all_code_that_decides_a_shard_is_in_its_key() -> None:
    """What importing and running the work of tokenizing may load is what its memory is valid for."""
    listed = {Path(str(module.__file__)).relative_to(REPOSITORY) for module in remembered_shards.MODULES}
    assert listed == set(import_closure(ShardMaker.__module__, REPOSITORY))


def test_what_is_kept_is_what_the_artefacts_hold(fresh: Any) -> None:
    """No file of an earlier corpus is kept: each is the very file of an artefact."""
    as_made(fresh)
    (fresh.root / "texts" / "cat-barn.txt").unlink()
    as_made(fresh)
    kept = [path for path in fresh.path("scratch/memo").glob("*_files/*/*") if path.is_file()]
    assert len(kept) >= 6  # ingested, cleaned and tokenized
    assert {path.stat().st_nlink for path in kept} == {2}


def test_an_erased_text_is_forgotten(fresh: Any) -> None:
    """After an erasure and a run, the masked text of the erased document is in no segment of the memo."""
    from pipeline import erase

    lay_out(fresh.root, {1: TEXTS[2]})

    def run() -> bytes:
        fresh.run("ingest")
        fresh.run("clean", email_addresses="mask")
        return b"".join(path.read_bytes() for path in fresh.path("scratch/memo").rglob("values.bin"))

    assert b"number three. Write to <email>" in run()
    with contextlib.chdir(fresh.root):
        erase.record(erase.find([], "page of its own, number three", []))
    assert b"number three" not in run()


def write_slow_files(root: Path, words: dict[str, str]) -> None:
    """A web page, a .docx or a Parquet file of these words by name, and the good texts."""
    import docx

    lay_out(root, {})
    for name, said in words.items():
        place = root / "texts" / name
        if name.endswith(".docx"):
            document = docx.Document()
            document.core_properties.created = datetime(2020, 1, 1)
            document.add_paragraph(said)
            document.save(str(place))
        elif name.endswith(".parquet"):
            pq.write_table(pa.table({"text": [said, f"{said} Again."]}), place)
        else:
            place.write_text(f"<html><body><main><p>{said}</p></main></body></html>")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The format of every file that was really parsed or tried apart."""
    seen: list[str] = []
    tried, extracted = isolation._Child._tried, html.extracted

    def trying(self: Any, file: Any, size: int, form: str, *rest: Any, **more: Any) -> Any:
        seen.append(form)
        return tried(self, file, size, form, *rest, **more)

    def extracting(*what: Any) -> str:
        seen.append("html")
        return extracted(*what)

    monkeypatch.setattr(isolation._Child, "_tried", trying)
    monkeypatch.setattr(html, "extracted", extracting)
    return seen


SLOW = {"a.docx": "The owl reads a letter.", "b.html": "The bee reads a page.", "c.parquet": "The ant reads a table."}


def test_an_unchanged_file_is_not_parsed_again(fresh: Any, parsed: list[str]) -> None:
    """Documents are those of a full run, and only the file that is new is parsed."""
    write_slow_files(fresh.root, SLOW)
    fresh.run("ingest")
    assert sorted(parsed) == ["docx", "html", "parquet"]
    parsed.clear()
    (fresh.root / "texts" / "d.html").write_text("<html><body><p>The fox reads another.</p></body></html>")
    fresh.run("ingest")
    assert parsed == ["html"]
    found = [fresh.manifest(name) for name in INGESTED]
    shutil.rmtree(fresh.path("scratch/memo"))
    fresh.run("ingest")
    assert [fresh.manifest(name) for name in INGESTED] == found


def test_a_refused_file_is_tried_every_time(fresh: Any, parsed: list[str]) -> None:
    """A reader that took too long, or died, may do better tomorrow: no refusal is remembered, and its reason stays."""
    write_slow_files(fresh.root, {})
    (fresh.root / "texts" / "bad.docx").write_bytes(b"PK no such thing")
    for _ in range(2):
        fresh.run("ingest")
        [refused] = pq.read_table(fresh.path("quarantine/ingest/rejections.parquet")).to_pylist()
        assert refused["reason"].startswith("is damaged, or no .docx")
    assert parsed == ["docx", "docx"]


def test_an_erased_page_is_forgotten_though_its_file_remains(fresh: Any, parsed: list[str]) -> None:
    """The text of an erased record leaves the memo with the next run, whether it was known or parsed in that run."""
    from pipeline import erase

    def held() -> list[bool]:
        fresh.run("ingest")
        content = b"".join(path.read_bytes() for path in fresh.path("scratch/memo/texts").rglob("values.bin"))
        return [said.encode() in content for said in (SLOW["a.docx"], SLOW["b.html"])]

    write_slow_files(fresh.root, SLOW)
    assert held() == [True, True]
    fresh.run("clean", drop_contaminated=False)
    with contextlib.chdir(fresh.root):
        erase.record(erase.find([], SLOW["b.html"], []))
    assert held() == [True, False]
    parsed.clear()
    assert held() == [True, False]
    assert parsed == ["html"]
