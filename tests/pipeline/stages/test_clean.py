"""Clean normalises, drops the empty and the repeated with a reason, and loses nothing without one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.cleaning import personal_data
from pipeline.cleaning.groups import read_groups
from pipeline.document_tokens import split_of_digest
from pipeline.documents import KINDS, Document, Instruction, Message, learned_texts, part_files, read_records
from pipeline.errors import ConfigurationError, DataError, IntegrityError
from pipeline.params import Compute, build, load
from pipeline.quarantine import read_changes
from pipeline.stages.clean import Params

REPOSITORY = Path(__file__).resolve().parents[3]


def texts(project: Any) -> list[str]:
    return [d.text for d in read_records(project.path("documents/clean/documents.parquet"), Document)]


def reasons(project: Any) -> list[str]:
    table = pq.read_table(project.path("quarantine/clean/rejections.parquet"))
    return [reason.split(" of ")[0] for reason in table["reason"].to_pylist()]


def with_texts(project: Any, **contents: str) -> None:
    for path in (project.root / "texts").iterdir():
        path.unlink()
    for name, content in contents.items():
        (project.root / "texts" / f"{name}.txt").write_text(content, newline="")
    project.run("ingest")


def test_records_are_normalised_and_each_drop_has_a_reason(fresh: Any) -> None:
    """Line ends, accents and controls are put in one form; then the empty and the repeated go to the quarantine."""
    with_texts(fresh, a="one\r\ntwo  \n", b="one\ntwo", c=" \n\t\n", d="cafe\u0301\x00", e="café", f="other")
    report = fresh.run("clean")
    assert texts(fresh) == ["one\ntwo", "café", "other"]
    assert reasons(fresh) == ["exact duplicate", "empty", "exact duplicate"]
    facts = fresh.manifest("documents/clean").facts
    assert (facts["documents"], facts["documents_in"]) == (3, 6)
    assert facts["by_source"]["texts"]["dropped"] == {"empty": 1, "exact duplicate": 2}
    assert report.numbers == {"records_in": 60, "records_dropped": 3, "documents_with_personal_data": 0}


def test_records_in_are_records_out_and_quarantined(made: Any) -> None:
    """For documents, messages and instructions alike, nothing is lost without a reason."""
    documents, examples = made.manifest("documents/clean").facts, made.manifest("examples/clean").facts
    left_in = documents["documents_in"] + examples["messages_in"] + examples["instructions_in"]
    left_out = documents["documents"] + examples["messages"] + examples["instructions"]
    assert left_in == left_out + len(reasons(made)) == 40 + 36 + 18


def test_a_duplicate_is_kept_on_request(fresh: Any) -> None:
    """With drop_duplicates false, equal texts stay, and the empty still go."""
    with_texts(fresh, a="same", b="same", c="")
    fresh.run("clean", drop_duplicates=False)
    assert (texts(fresh), reasons(fresh)) == (["same", "same"], ["empty"])


def test_a_message_in_two_splits_stays_in_the_first(fresh: Any) -> None:
    """A repeated message is dropped whatever its split or label, so that no test message was trained on."""
    leaking = '{"text": "leak", "label": "ham"}\n'
    for split in ("train", "test"):
        fresh.path(f"samples/spam/{split}.jsonl").write_text(leaking + f'{{"text": "{split}", "label": "spam"}}\n')
    fresh.run("ingest")
    fresh.run("clean")
    rows = read_records(fresh.path("examples/clean/messages.parquet"), Message)
    assert [(row.split, row.text) for row in rows if row.split != "validation"] == [
        ("train", "leak"),
        ("train", "train"),
        ("test", "test"),
    ]


def test_a_repeated_message_with_another_label_has_a_reason_of_its_own(fresh: Any) -> None:
    """The first one's label stays, and the counts and the quarantine tell a contradiction from a mere copy."""
    rows = [("same", "ham"), ("same", "spam"), ("same", "ham"), ("other", "spam")]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    fresh.path("samples/spam/train.jsonl").write_text("\n".join(lines))
    fresh.run("ingest")
    report = fresh.run("clean")
    kept = [row for row in read_records(fresh.path("examples/clean/messages.parquet"), Message) if row.split == "train"]
    assert [(row.text, row.label) for row in kept] == [("same", "ham"), ("other", "spam")]
    dropped = fresh.manifest("examples/clean").facts["by_kind"]["messages"]["dropped"]
    assert dropped == {"exact duplicate": 1, "exact duplicate with another label": 1}
    assert any("1 exact duplicate with another label" in note for note in report.notes)
    table = pq.read_table(fresh.path("quarantine/clean/rejections.parquet")).to_pylist()
    assert f"exact duplicate with another label of {kept[0].id}" in [row["reason"] for row in table]


SAID = "Write to\njane@uni-bonn.de\npay with\n4111 1111 1111 1111\nfrom\n8.8.8.8 \r\nAKIAIOSFODNN7EXAMPLE"
KIND_ROWS: dict[str, dict[str, Any]] = {
    "messages": {"text": SAID, "label": "spam"},
    "instructions": {"instruction": "Go on", "response": SAID},
    "conversations": {"messages": [{"role": "user", "content": SAID}, {"role": "assistant", "content": 'a "\\" b'}]},
    "translations": {"source": SAID, "target": "Katze"},
    "questions": {"question": "Who?", "answer": SAID},
    "preferences": {"prompt": "p", "chosen": SAID, "rejected": "r"},
}


@pytest.mark.parametrize("kind", KIND_ROWS)
def test_rules_see_what_is_said_in_every_kind_of_example(fresh: Any, kind: str) -> None:
    """Personal data at the beginning of a line, controls and the empty: a conversation is judged turn by turn."""
    (fresh.root / "texts" / "more").mkdir()
    (fresh.root / "texts" / "more" / "rows.jsonl").write_text(json.dumps(KIND_ROWS[kind]) + "\n")
    entry = {"path": f"{fresh.root}/texts/more", "kind": kind, "licence": "MIT", "origin": "a colleague"}
    entry |= {"languages": ["en", "de"]} if kind == "translations" else {}
    fresh.run("ingest", sources=["texts", "mine"], texts=str(fresh.root / "texts"), catalogue={"mine": entry})
    fresh.run("clean", **dict.fromkeys(personal_data.KINDS, "mask"))
    counts = fresh.manifest("examples/clean").facts["by_kind"][kind]
    wanted = {"email_addresses": 1, "payment_cards": 1, "ip_addresses": 1, "secrets": 1}
    assert (counts["personal_data"], counts["with_personal_data"]) == (wanted, 1)
    [record] = [
        r for r in read_records(fresh.path(f"examples/clean/{kind}.parquet"), KINDS[kind]) if r.dataset == "mine"
    ]
    [said] = [text for text in learned_texts(record) if "Write" in text]
    assert said == "Write to\n<email>\npay with\n<card>\nfrom\n<ip>\n<secret>"
    if kind == "conversations":
        assert learned_texts(record)[1] == 'a "\\" b'
    with pytest.raises(DataError, match=f"1 of the {kind}"):
        fresh.run("clean", email_addresses="fail")


def test_a_conversation_of_nothing_is_dropped(fresh: Any) -> None:
    """A turn may be empty, all of them may not."""
    talks = [[("user", "Hi"), ("assistant", "")], [("user", " "), ("assistant", "")]]
    lines = [json.dumps({"messages": [{"role": role, "content": said} for role, said in talk]}) for talk in talks]
    (fresh.root / "texts" / "talks.jsonl").write_text("\n".join(lines))
    entry = {"path": f"{fresh.root}/texts/talks.jsonl", "kind": "conversations", "licence": "MIT", "origin": "me"}
    fresh.run("ingest", sources=["texts", "mine"], texts=str(fresh.root / "texts"), catalogue={"mine": entry})
    fresh.run("clean")
    assert fresh.manifest("examples/clean").facts["conversations"] == 1
    assert "empty" in reasons(fresh)


def test_an_instruction_may_have_no_input(fresh: Any) -> None:
    """An empty input is no reason to drop an instruction; an empty response is."""
    fresh.path("samples/instructions/train.jsonl").write_text(
        '{"instruction": "Say hello.", "input": "", "response": "Hello."}\n'
        '{"instruction": "Say nothing.", "input": "", "response": " "}\n'
    )
    fresh.run("ingest")
    fresh.run("clean")
    rows = read_records(fresh.path("examples/clean/instructions.parquet"), Instruction)
    assert [row.instruction for row in rows if row.split == "train"] == ["Say hello."]
    assert reasons(fresh) == ["empty"]


def test_the_same_input_gives_the_same_artefacts(made: Any) -> None:
    """Cleaning again gives equal digests."""
    before = made.digests()
    made.run("clean")
    assert made.digests() == before


def test_what_is_dropped_can_be_read(fresh: Any) -> None:
    """The quarantine holds the dropped record itself, under its kind and id."""
    with_texts(fresh, a="same", b="same")
    fresh.run("clean")
    [row] = pq.read_table(fresh.path("quarantine/clean/rejections.parquet")).to_pylist()
    first, second = read_records(fresh.path("documents/ingested/documents.parquet"), Document)
    assert (row["source"], row["name"], row["reason"]) == ("documents", second.id, f"exact duplicate of {first.id}")
    assert row["raw"].decode().split("\0")[-1] == "same"


def test_nothing_left_is_an_error_with_the_reasons_kept(fresh: Any) -> None:
    """If every document is dropped, the stage fails, and the quarantine that its message names is there."""
    with_texts(fresh, a=" ", b="\n")
    with pytest.raises(
        DataError, match="none of the 2 documents is left; look at the reasons in data/quarantine/clean"
    ):
        fresh.run("clean")
    assert reasons(fresh) == ["empty", "empty"]
    assert not fresh.path("documents/clean").exists()


def test_altered_input_is_refused(fresh: Any) -> None:
    """A flipped byte in what ingest wrote is an IntegrityError, and nothing is made of it."""
    fresh.run("ingest")
    path = fresh.path("examples/ingested/messages.parquet/000000.parquet")
    altered = bytearray(path.read_bytes())
    altered[len(altered) // 2] ^= 1
    path.write_bytes(altered)
    with pytest.raises(IntegrityError, match=r"messages\.parquet/000000\.parquet: its bytes are not"):
        fresh.run("clean")
    assert not fresh.path("documents/clean").exists()


CANARY = "jane.canary@uni-bonn.de"
PROSE = "The {} sat on the mat with a dog and looked at all of the birds that have come to the garden today, {}."


def facts(project: Any) -> dict[str, Any]:
    """What clean counted of the source `texts`."""
    counted: dict[str, Any] = project.manifest("documents/clean").facts["by_source"]["texts"]
    return counted


def test_near_duplicates_leave_the_first_and_name_it(fresh: Any) -> None:
    """Texts that differ in a word at the end are one; the dropped name the one that is kept."""
    long = " ".join(f"word{i}" for i in range(300))
    with_texts(fresh, a=f"{long} first", b="another text of five words", c=f"{long} second")
    fresh.run("clean", near_duplicates="drop")
    assert [text.split()[-1] for text in texts(fresh)] == ["first", "words"]
    first = next(read_records(fresh.path("documents/ingested/documents.parquet"), Document))
    table = pq.read_table(fresh.path("quarantine/clean/rejections.parquet"))
    assert table["reason"].to_pylist() == [f"near duplicate of {first.id}"]
    assert (facts(fresh)["records_in"], facts(fresh)["records_out"]) == (3, 2)


def test_a_cluster_of_near_duplicates_never_straddles_the_split(fresh: Any) -> None:
    """Kept in one split, near-duplicates all go where their first goes, and others stay where they were."""
    long = [" ".join(f"w{cluster}-{i}" for i in range(300)) for cluster in range(12)]
    with_texts(fresh, **{f"t{c:02}{n}": f"{text} {n}" for c, text in enumerate(long) for n in range(6)})
    fresh.run("clean", near_duplicates="keep_in_one_split")
    fresh.vouch()
    fresh.run("tokenize", validation_fraction=0.5, vocab_size=300)
    kept = list(read_records(fresh.path("documents/clean/documents.parquet"), Document))
    groups = read_groups(fresh.path("documents/clean"))
    assert (len(kept), len(groups)) == (72, 60)
    splits: dict[str, set[str]] = {}
    for document in kept:
        cluster = document.text.split("-")[0]
        own = hashlib.sha256(document.text.encode()).digest()
        splits.setdefault(cluster, set()).add(split_of_digest(groups.get(document.id, own), 0.5))
    assert [len(found) for found in splits.values()] == [1] * 12
    assert len(set().union(*splits.values())) == 2
    counted = fresh.manifest("tokens").facts["n_documents"]
    assert counted["train"] % 6 == counted["validation"] % 6 == 0
    assert pq.read_table(fresh.path("documents/clean/groups.parquet")).num_rows == 60


def test_a_document_that_holds_a_test_example_is_dropped(fresh: Any) -> None:
    """The reason names the evaluation set; a training example may stand in a document."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    for split in ("train", "test"):
        line = f'{{"text": "{split} {words}", "label": "ham"}}\n{{"text": "{split} spam", "label": "spam"}}\n'
        fresh.path(f"samples/spam/{split}.jsonl").write_text(line)
    with_texts(
        fresh, a=f"As they say: Test, {words}!", b="train one two three four five six seven eight nine ten eleven"
    )
    fresh.run("clean")
    assert reasons(fresh) == ["contaminated: has 13 words in a row"]
    assert len(texts(fresh)) == 1
    fresh.run("clean", drop_contaminated=False)
    assert len(texts(fresh)) == 2


def test_further_evaluation_files_count(fresh: Any, tmp_path: Any) -> None:
    """A file in data/evaluation_texts is looked for line by line, its digest is kept; what cannot be read is named."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    folder = fresh.path("evaluation_texts")
    folder.mkdir()
    (folder / "README.md").write_text(words)
    (folder / "quiz.jsonl").write_text(f'{{"question": "{words}?", "answer": "yes"}}\n\n')
    with_texts(fresh, a=f"so {words} it goes", b="fine")
    fresh.run("clean")
    table = pq.read_table(fresh.path("quarantine/clean/rejections.parquet"))
    assert table["reason"].to_pylist() == ["contaminated: has 13 words in a row of quiz.jsonl"]
    assert list(fresh.manifest("documents/clean").facts["evaluation_files"]) == ["quiz.jsonl"]
    (folder / "bad.jsonl").write_text("{")
    with pytest.raises(ConfigurationError, match=r"bad\.jsonl: not lines of JSON objects"):
        fresh.run("clean")
    (folder / "bad.jsonl").rename(folder / "bad.pdf")
    with pytest.raises(ConfigurationError, match=r"bad\.pdf: neither \.txt"):
        fresh.run("clean")


def test_quality_and_language_rules_are_switched_by_name(fresh: Any) -> None:
    """A rule that is named holds, with its name as the reason; the others do not."""
    prose = " ".join(PROSE.format(animal, animal) for animal in ("cat", "hen", "owl"))
    with_texts(fresh, a=prose, b="Too short.", c=prose.replace(".", "{"))
    fresh.run("clean", quality=["gopher-words", "c4-curly-brackets"])
    assert (len(texts(fresh)), facts(fresh)["dropped"]) == (1, {"c4-curly-brackets": 1, "gopher-words": 1})
    with pytest.raises(ConfigurationError, match=r"clean.quality.0: "):
        fresh.run("clean", quality=["gopher-wordz"])


def test_lines_are_taken_out_and_the_change_can_be_looked_at(fresh: Any) -> None:
    """c4-lines changes a document; the quarantine keeps a few examples of before and after."""
    with_texts(fresh, a="A line that is a sentence.\nmenu\nlogin", b="menu")
    fresh.run("clean", quality=["c4-lines"])
    assert texts(fresh) == ["A line that is a sentence."]
    assert (facts(fresh)["changed"], facts(fresh)["dropped"]) == ({"c4-lines": 2}, {"c4-lines": 1})
    changes = read_changes(fresh.path("quarantine/clean"))
    assert (changes[0].rule, changes[0].after) == ("c4-lines", "A line that is a sentence.")


def test_personal_data_by_policy(fresh: Any) -> None:
    """Counted by default; masked, dropped or fatal as params say."""
    with_texts(fresh, a=f"Write to {CANARY} today.", b="Nothing here.")
    fresh.run("clean")
    assert (facts(fresh)["personal_data"], len(texts(fresh))) == ({"email_addresses": 1}, 2)
    fresh.run("clean", email_addresses="mask")
    assert texts(fresh)[0] == "Write to <email> today."
    fresh.run("clean", email_addresses="drop")
    assert (texts(fresh), reasons(fresh)) == (["Nothing here."], ["personal data: e-mail address"])
    with pytest.raises(DataError, match=r"clean: 1 of the documents hold .* and clean\.email_addresses is fail"):
        fresh.run("clean", email_addresses="fail")
    assert fresh.manifest("documents/clean").params["email_addresses"] == "drop"


def test_too_much_personal_data_stops_the_run(fresh: Any) -> None:
    """One document of two is more than 40 %, and less than 60 %."""
    with_texts(fresh, a=f"Write to {CANARY} today.", b="Nothing here.")
    with pytest.raises(DataError, match="clean: 1 of 2 documents hold personal data, and") as caught:
        fresh.run("clean", maximum_personal_data_share=0.4)
    assert caught.value.exit_code == 65
    fresh.run("clean", maximum_personal_data_share=0.6)


@pytest.mark.parametrize("policy", ["count", "mask", "drop"])
def test_what_is_private_is_in_no_note_reason_or_manifest(fresh: Any, policy: str) -> None:
    """A planted address stands in the quarantine's raw bytes, and in the documents if it is only counted."""
    long = " ".join(f"word{i}" for i in range(100))
    with_texts(fresh, a=f"{CANARY} {long}", b=f"{CANARY} {long}", c=f"{CANARY} {long} end", d="other", e=f"# {CANARY}")
    report = fresh.run("clean", email_addresses=policy, near_duplicates="drop", quality=["gopher-hashes"])
    said = [*report.notes, *map(str, report.numbers)]
    table = pq.read_table(fresh.path("quarantine/clean/rejections.parquet"), columns=["source", "name", "reason"])
    written = [str(row) for row in table.to_pylist()]
    manifests = [path.read_text() for path in fresh.path("").rglob("manifest.json")]
    assert not [line for line in said + written + manifests if "canary" in line.lower()]
    assert table.num_rows >= 3


def test_control_characters_are_gone_and_lines_end_in_one_way(fresh: Any) -> None:
    """NUL and the other controls are taken out, U+2028 is a character like any other, and the change is counted."""
    with_texts(fresh, a="one\x00two\x1b\r\nthree\u2028four")
    fresh.run("clean")
    assert texts(fresh) == ["onetwo\nthree\u2028four"]
    assert facts(fresh)["changed"] == {"normalise": 1}


HELD_OUT = "The miller and the smith went to the river to catch a trout that nobody had seen before. " * 4
STRICT = {
    "near_duplicates": "drop",
    "email_addresses": "mask",
    "maximum_personal_data_share": 1.0,
    "quality": ["gopher-words", "c4-lines"],
}


def cleaned_strictly(project: Any) -> list[str]:
    """The digests of what these rules leave and turn away, nothing being remembered from before."""
    project.forget()
    project.run("clean", **STRICT)
    return [project.manifest(name).digest for name in ("documents/clean", "examples/clean", "quarantine/clean")]


@pytest.fixture
def many_small_parts(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project with texts for every rule, and parts of about five of them, so that there is something to share out."""
    monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", 2000)
    monkeypatch.setattr("pipeline.stages.clean.BYTES_PER_WORKER", 1)
    prose = "It was a long day for the people of the village, and they were tired when they came home. "
    contents = {f"page{number:02}": f"{prose * 4}Page {number} ends here for them." for number in range(30)}
    contents |= {f"mail{number:02}": f"{prose * 4}Write to ada{number}@lovelace.net today." for number in range(10)}
    with_texts(fresh, **contents, twice=contents["page03"], held=HELD_OUT, short="So.")
    fresh.path("evaluation_texts").mkdir()
    (fresh.path("evaluation_texts") / "held-out.txt").write_text(HELD_OUT)
    return fresh


@pytest.mark.parametrize("near_duplicates", ["keep", "drop", "keep_in_one_split"])
def test_how_a_table_is_cut_does_not_show(
    many_small_parts: Any, monkeypatch: pytest.MonkeyPatch, near_duplicates: str
) -> None:
    """The same documents, refusals, groups and counts come of one part as of many."""
    project = many_small_parts
    found = []
    for at_least in (1, 2000, 1 << 21):
        monkeypatch.setattr("pipeline.documents.PART_CHARACTERS", at_least)
        project.forget()
        project.run("ingest")
        project.run("clean", **STRICT | {"near_duplicates": near_duplicates})
        counts = {**project.manifest("documents/clean").facts}
        documents = list(read_records(project.path("documents/clean/documents.parquet"), Document))
        turned_away = pq.read_table(project.path("quarantine/clean/rejections.parquet")).to_pylist()
        found.append((documents, turned_away, read_groups(project.path("documents/clean")), counts))
        parts = len(part_files(project.path("documents/ingested/documents.parquet")))
        assert parts == 1 if at_least == 1 << 21 else parts > 5
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) > 1


@pytest.mark.parametrize("count", [2, 3])
def test_more_workers_change_nothing(many_small_parts: Any, count: int) -> None:
    """Several processes keep, change and turn away what one does, byte for byte, and remember it alike."""
    project = many_small_parts
    alone = cleaned_strictly(project)
    assert {reason.split(":")[0] for reason in reasons(project)} == {
        "near duplicate",
        "exact duplicate",
        "c4-lines",
        "contaminated",
    }
    project.compute = replace(project.compute, workers=count)
    assert cleaned_strictly(project) == alone
    project.run("clean", **STRICT)  # all from memory
    assert project.manifest("documents/clean").digest == alone[0]


@pytest.mark.slow
def test_a_ray_cluster_changes_nothing(many_small_parts: Any, on_a_ray_cluster: Any) -> None:
    """A Ray cluster of two nodes on this machine writes the very manifests that one process does."""
    alone = cleaned_strictly(many_small_parts)
    many_small_parts.compute = on_a_ray_cluster(many_small_parts.compute)
    assert cleaned_strictly(many_small_parts) == alone


@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_example_that_holds_an_evaluation_text_is_dropped(fresh: Any, workers: int) -> None:
    """By the files in data/evaluation_texts; not by the examples' own test split, which shares wordings with them."""
    said = "the quick brown fox jumps over the lazy dog and then goes home to sleep until the next morning"
    (fresh.path("evaluation_texts")).mkdir()
    (fresh.path("evaluation_texts") / "quiz.txt").write_text(said)
    for split in ("train", "test"):
        rows = [
            {"instruction": f"Go on, {split}.", "input": "", "response": f"{said}, {split}"},
            {
                "instruction": "Say what all other instructions of this set and of its kin say as well, word by word",
                "input": "",
                "response": split,
            },
        ]
        fresh.path(f"samples/instructions/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fresh.compute = Compute("cpu", 1, 3600, workers=workers)
    fresh.run("ingest")
    fresh.run("clean")
    kept = list(read_records(fresh.path("examples/clean/instructions.parquet"), Instruction))
    assert [(row.split, row.response[-5:]) for row in kept if row.split != "validation"] == [
        ("train", "train"), ("test", " test"), ("test", "test"),
    ]  # fmt: skip
    assert reasons(fresh) == ["contaminated: has 13 words in a row"]
    fresh.run("clean", drop_contaminated=False)
    assert reasons(fresh) == []


def test_a_language_is_named_by_its_code() -> None:
    """A name in its place would drop every document, after a library was asked for."""
    values = load(REPOSITORY / "params.yaml").values("clean", None)
    with pytest.raises(ConfigurationError, match="languages has 'english'; name each by its code"):
        build(Params, {**values, "languages": ["en", "english"]}, "clean")
