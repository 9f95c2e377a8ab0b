"""What reading JSON lines promises: every line becomes a record or a rejection, and no line harms another."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.rejections import RAW_LIMIT_BYTES, Rejection
from pipeline.documents import Instruction, Message
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.sources.samples import LINE_LIMIT_BYTES, examples

CANARY = "SECRET-CANARY-7731"
GOOD = b'{"text": "hello", "label": "ham"}'
texts = st.text(st.characters(exclude_categories=["Cs"]))


def write(folder: Path, content: bytes) -> Path:
    file = folder / "train.jsonl"
    file.write_bytes(content)
    return file


def test_a_good_file_gives_its_records_in_order(tmp_path: Path) -> None:
    """Each line is a record with its split; the last line needs no line end, and CR LF will do."""
    file = write(tmp_path, GOOD + b'\r\n{"label": "spam", "text": "win\\u2028now"}')
    assert list(examples(file, "spam", split="train")) == [
        Message.of(dataset="spam", split="train", label="ham", text="hello"),
        Message.of(dataset="spam", split="train", label="spam", text="win\u2028now"),
    ]
    file = write(tmp_path, b'{"instruction": "Say hi.", "input": "", "response": "hi"}\n')
    assert list(examples(file, "instructions", split="test")) == [
        Instruction.of(dataset="instructions", split="test", instruction="Say hi.", input="", response="hi")
    ]


BROKEN = {
    b"": "is not JSON: character 0 of the line",
    b"{": "is not JSON: character 1 of the line",
    b'{"text": "a", "label": "ham"} ' + CANARY.encode(): "is not JSON: character 30 of the line",
    b'{"text": "'
    + CANARY.encode()
    + b'\xff", "label": "ham"}': "is not UTF-8: byte 28 of the line, invalid start byte",
    GOOD.decode().encode("utf-16-le"): "is not JSON: character 1 of the line",
    b'{"text": "\xed\xa0\x80", "label": "ham"}': "is not UTF-8: byte 10 of the line, invalid continuation byte",
    b'{"text": "\\ud800", "label": "ham"}': '"text" holds a lone surrogate',
    b'{"text": NaN, "label": "ham"}': "holds NaN or Infinity, which JSON has not",
    b'{"text": "a", "label": -Infinity}': "holds NaN or Infinity, which JSON has not",
    b"[" * 200_000: "is nested too deeply",
    b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b', "label": "ham"}': "is nested too deeply",
    b'{"text": ' + b"9" * 5000 + b', "label": "ham"}': "holds a number that is too long",
    b'{"text": 1, "label": "ham"}': '"text" is a number, not a string',
    b'{"text": {"a": 1}, "label": "ham"}': '"text" is an object, not a string',
    b'{"text": null, "label": "ham"}': '"text" is null, not a string',
    b'{"text": "a", "label": true}': '"label" is a boolean, not a string',
    b'{"text": "a"}': 'has no "label"',
    b'{"Text": "a", "label": "ham"}': 'has no "text"',
    b'{"text": "a", "label": "ham", "' + CANARY.encode() + b'": 1}': "has keys besides text, label",
    b'{"text": "a", "text": "b", "label": "ham"}': "names a key twice",
    b'{"text": "a", "label": "' + CANARY.encode() + b'"}': '"label" is not one of ham, spam',
    b'["text", "label"]': "is a list, not a JSON object",
    b'"text"': "is a string, not a JSON object",
    b"1.5": "is a number, not a JSON object",
    b"null": "is null, not a JSON object",
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.items(), ids=list(BROKEN.values()))
def test_a_broken_line_is_refused_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    """The rejection has the line's bytes and offset and the file's digest; its reason never quotes the line."""
    content = GOOD + b"\n" + line + b"\n" + GOOD + b"\n"
    first, refused, last = examples(write(tmp_path, content), "spam", split="train")
    assert isinstance(first, Message)
    assert first == last
    assert refused == Rejection("spam", "train.jsonl", len(GOOD) + 1, reason, hashlib.sha256(content).hexdigest(), line)
    assert CANARY not in repr(refused)


@given(st.lists(texts | st.sampled_from(list(BROKEN)[1:9])))
def test_every_good_line_survives_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str | bytes]
) -> None:
    """Records in = records out + refused, in order, whatever stands between them."""
    lines = [p if isinstance(p, bytes) else json.dumps({"text": p, "label": "spam"}).encode() for p in parts]
    file = write(tmp_path_factory.mktemp("jsonl"), b"".join(line + b"\n" for line in lines))
    records = list(examples(file, "spam", split="train"))
    assert [r.raw if isinstance(r, Rejection) else r.text for r in records] == parts


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_and_kept(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No bytes crash the reader, and every line of them is accounted for."""
    file = write(tmp_path_factory.mktemp("jsonl"), content)
    records = list(examples(file, "spam", split="train"))
    lines = content.split(b"\n")[: None if content and not content.endswith(b"\n") else -1]
    assert [r.raw for r in records if isinstance(r, Rejection)] == lines


def test_a_byte_order_mark_is_accepted_at_the_beginning_only(tmp_path: Path) -> None:
    """A UTF-8 BOM before the first line is no part of it; before another it is an error."""
    bom = b"\xef\xbb\xbf"
    first, second = examples(write(tmp_path, bom + GOOD + b"\n" + bom + GOOD), "spam", split="train")
    assert isinstance(first, Message)
    assert isinstance(second, Rejection)


def test_a_line_over_the_limit_is_cut_in_quarantine_and_its_neighbours_survive(tmp_path: Path) -> None:
    """The limit is inclusive; the reason tells the line's full length."""
    frame = len(b'{"text": "", "label": "ham"}')
    longest = GOOD.replace(b"hello", b"x" * (LINE_LIMIT_BYTES - frame))
    too_long = GOOD.replace(b"hello", b"x" * (3 * LINE_LIMIT_BYTES))
    lines = [longest, too_long, b"no JSON", GOOD]
    kept, refused, broken, after = examples(write(tmp_path, b"\n".join(lines)), "spam", split="train")
    assert isinstance(kept, Message)
    assert isinstance(refused, Rejection)
    assert isinstance(after, Message)
    assert refused.reason == f"too long: {len(too_long):,} bytes, of at most {LINE_LIMIT_BYTES:,} in a line"
    assert refused.raw == too_long[:RAW_LIMIT_BYTES]
    assert isinstance(broken, Rejection)
    assert broken.offset == len(longest) + 1 + len(too_long) + 1


@pytest.mark.slow
def test_a_huge_line_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """A line of 512 MiB (a sparse file's zeros) is refused with less memory than it has bytes."""
    file = tmp_path / "train.jsonl"
    with file.open("wb") as stream:
        stream.truncate(512 << 20)
        stream.seek(0, 2)
        stream.write(b"\n" + GOOD)
    code = (
        "import sys; from pathlib import Path; from pipeline.sources.samples import examples\n"
        "print(*(type(r).__name__ for r in examples(Path(sys.argv[1]), 'spam', split='train')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20)),
    )  # fmt: skip
    assert run.stdout.split() == ["Rejection", "Message"]


def test_a_file_that_changes_under_the_reader_stops_the_run(tmp_path: Path) -> None:
    """The second hash differs from the first: what was read is of no known file."""
    file = write(tmp_path, (GOOD + b"\n") * 2)
    reading = examples(file, "spam", split="train")
    assert isinstance(next(reading), Message)
    with file.open("ab") as stream:
        stream.write(GOOD + b"\n")
    with pytest.raises(IntegrityError, match=r"train\.jsonl: the file changed while it was read"):
        list(reading)


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    """The error names the key and the path."""
    with pytest.raises(ConfigurationError, match=r"data/samples: there is no file .*gone\.jsonl"):
        list(examples(tmp_path / "gone.jsonl", "spam", split="train"))
