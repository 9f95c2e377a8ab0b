"""Whatever wraps a file, its records are the same; whatever is wrong with it, no half of it gets through."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_sources import CHECKED, TEXTS, fuzz, seeds
from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Document
from pipeline.sources import archives, reading, rows
from pipeline.sources import isolation as isolation_module
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation

CANARY = "SECRET-CANARY-9163"
ROOT = Path(__file__).resolve().parents[3]
PLAIN = ("text", "html", "pdf", "docx", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "warc")
SUFFIXES: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content, ".gz": gzip.compress, ".zst": zstd.compress,
    ".bz2": bz2.compress, ".xz": lzma.compress,
}  # fmt: skip


@pytest.fixture(scope="module", params=[1, 3], ids=["one child", "three children"])
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    with Isolation(children=request.param) as children:
        yield children


def tarred(members: dict[str, bytes]) -> bytes:
    """A tar with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def read(place: Path, isolation: Isolation, **entry: object) -> dict[str, str]:
    """What became of each record at a place: its text, or why it was refused."""
    described = Entry(path=str(place), kind="documents", licence="CC0-1.0", origin="a test", **entry)  # type: ignore[arg-type]
    found: dict[str, str] = {}
    for record in Corpus(isolation).read("s", described, key="k"):
        if isinstance(record, Rejection):
            assert CANARY not in repr(record)
            found[record.name] = f"refused: {record.reason}"
        else:
            assert isinstance(record, Document)
            found[record.name] = record.text
    return found


def put(folder: Path, **files: bytes) -> Path:
    """Files in a folder; two underlines in a name stand for a dot."""
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@pytest.mark.parametrize("family", PLAIN)
def test_wrapping_does_not_show(tmp_path: Path, isolation: Isolation, family: str) -> None:
    """Plain, compressed, in a tar, in a zip, compressed in each: a file of every format gives the same texts."""
    name, content = seeds()[family]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / name).write_bytes(content)
    expected = list(read(tmp_path / "plain", isolation).values())
    assert expected and not any(text.startswith("refused") for text in expected)
    assert all(word in " ".join(expected) for word in ("Sentence 0", "Sentence 11"))
    for suffix, pack in SUFFIXES.items():
        inner = {f"deep/{name}{suffix}": pack(content)}
        for number, (outer, whole) in enumerate(
            (
                (f"{name}{suffix}", pack(content)),
                (f"x.tar{suffix}", pack(tarred({f"deep/{name}": content}))),
                ("y.tar", tarred(inner)),
                ("y.zip", zipped(inner)),
            )
        ):
            folder = tmp_path / f"{suffix}{number}"
            folder.mkdir()
            (folder / outer).write_bytes(whole)
            assert list(read(folder, isolation).values()) == expected, outer


@pytest.mark.parametrize("family", sorted(seeds()))
def test_mutated_files_are_refused_or_read(tmp_path: Path, isolation: Isolation, family: str) -> None:
    """Of a hundred damaged files of each family none raises, hangs, or takes a good record with it.

    `python -m benchmarks.fuzz_sources` tries ten thousand.
    """
    assert fuzz(family, 100, tmp_path, isolation).failures == []


@pytest.mark.parametrize("family", [*CHECKED, "parquet", "zip"])
def test_a_cut_off_file_gives_no_record(tmp_path: Path, isolation: Isolation, family: str) -> None:
    """Wherever a compressed file, an archive or a table ends too early, none of its records is taken."""
    name, content = seeds()[family]
    for cut in range(1, len(content), max(1, len(content) // 40)):
        (tmp_path / name).write_bytes(content[:cut])
        assert [text[:8] for text in read(tmp_path, isolation).values()] == ["refused:"], cut


def test_a_tar_that_breaks_off_gives_no_record(tmp_path: Path, isolation: Isolation) -> None:
    """A broken header in the middle is not taken for the archive's end, as Python's tarfile takes it."""
    content = bytearray(tarred({f"{n}.txt": text.encode() for n, text in enumerate(TEXTS)}))
    content[512 * 2 * 5 + 150] ^= 0x10  # the checksum of the sixth header
    assert read(put(tmp_path, a__tar=bytes(content)), isolation) == {
        "a.tar": "refused: is damaged: the archive has a broken header; make the file again"
    }


def test_a_web_archive_that_is_cut_off_gives_no_record(tmp_path: Path, isolation: Isolation) -> None:
    """Nobody knows what followed a torn record, whether its header or its content is torn, so nothing is taken."""
    content = seeds()["warc"][1]
    last = content.rindex(b"WARC/1.0")
    for cut in (last + 12, last + 60, len(content) - 10):
        (found,) = read(put(tmp_path, a__warc=content[:cut]), isolation).values()
        assert found.startswith(("refused: is cut off", "refused: is damaged")), cut


def test_a_page_that_differs_from_its_digest_is_refused(tmp_path: Path, isolation: Isolation) -> None:
    """A web archive's block digest is verified, record by record; the others are kept."""
    content = seeds()["warc"][1]
    wrong = b"WARC-Block-Digest: sha1:" + b"A" * 32 + b"\r\n"
    found = list(
        read(put(tmp_path, a__warc=content.replace(b"WARC-Record", wrong + b"WARC-Record", 1)), isolation).values()
    )
    assert found == ["refused: differs from the digest recorded with it", *TEXTS[1:]]


def test_a_named_format_goes_before_the_name(tmp_path: Path, isolation: Isolation) -> None:
    """Files whose names tell nothing, or something else, are read as their entry says, compressed ones too."""
    put(tmp_path, a__dat=b'{"text": "one"}', b=b'{"text": "two"}', c__log__gz=gzip.compress(b'{"text": "three"}'))
    assert list(read(tmp_path, isolation, format="jsonl").values()) == ["one", "two", "three"]


def test_one_damaged_member_of_a_zip_costs_that_member(tmp_path: Path, isolation: Isolation) -> None:
    """Members of a zip have checksums of their own, so the others are kept."""
    content = bytearray(zipped({"a.txt": b"one" * 99, "b.txt": b"two" * 99, "c.jsonl": b'{"text": "three"}\n'}))
    content[content.index(b"b.txt") + 6] ^= 0xFF
    found = read(put(tmp_path, a__zip=bytes(content)), isolation)
    assert found["a.zip/b.txt"].startswith("refused: is damaged")
    assert (found["a.zip/a.txt"], found["a.zip/c.jsonl:1"]) == ("one" * 99, "three")


def test_a_flipped_bit_of_a_parquet_page_refuses_the_file(tmp_path: Path, isolation: Isolation) -> None:
    """The page checksum finds it; no row of the good row groups before it is taken."""
    table = pa.table({"text": [f"text number {n}" for n in range(3000)]})
    file = io.BytesIO()
    pq.write_table(table, file, write_page_checksum=True, row_group_size=1000, compression="none", use_dictionary=False)
    content = bytearray(file.getvalue())
    content[content.index(b"number 2500")] ^= 1
    (found,) = read(put(tmp_path, a__parquet=bytes(content)), isolation).values()
    assert found.startswith("refused: is damaged")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_decompression_bomb_is_stopped(tmp_path: Path, isolation: Isolation, suffix: str) -> None:
    """What expands beyond the ratio is refused before it fills memory or disk, as a file and as a member."""
    bomb = SUFFIXES[suffix](bytes(rows.EXPANSION_FREE_BYTES + (1 << 20)))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(bomb)
    (tmp_path / "b.zip").write_bytes(zipped({f"a.jsonl{suffix}": bomb}))
    said = "refused: expands more than 250-fold, like a decompression bomb; unpack it yourself"
    assert read(tmp_path, isolation) == {f"a.jsonl{suffix}": said, f"b.zip/a.jsonl{suffix}": said}


def test_members_lead_nowhere(tmp_path: Path, isolation: Isolation) -> None:
    """Nothing is written for a member named "../x" or "/x"; links and devices in an archive are named and left."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("../out.txt", "/absolute.txt", "good.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"text"))
        for name, kind in (("link.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE), ("null.txt", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    (tmp_path / "in").mkdir()
    put(tmp_path / "in", a__tar=file.getvalue(), b__zip=zipped({"../up.txt": b"text", ".git/x.txt": CANARY.encode()}))
    found = read(tmp_path / "in", isolation)
    refused = f"refused: {archives.NOT_A_FILE}"
    assert found == {
        "a.tar/../out.txt": "text", "a.tar//absolute.txt": "text", "a.tar/good.txt": "text", "a.tar/link.txt": refused,
        "a.tar/hard.txt": refused, "a.tar/null.txt": refused, "b.zip/../up.txt": "text",
        "b.zip/.git/x.txt": "refused: its name begins with a dot",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "b.zip", "in"]


def test_an_archive_in_an_archive_is_refused(tmp_path: Path, isolation: Isolation) -> None:
    """One level is streamed; another is for the user to unpack."""
    assert read(put(tmp_path, a__zip=zipped({"b.tar.gz": b"", "c.txt": b"c"})), isolation) == {
        "a.zip/b.tar.gz": "refused: is an archive within an archive; unpack the outer one", "a.zip/c.txt": "c",
    }  # fmt: skip


BAD_LINES = {
    b'{"text": ': "is not JSON: character 9 of the line",
    b'{"txt": "a"}': 'has no "text"',
    b'{"text": 7}': '"text" is a number, not a string',
    b'["a"]': "is a list, not a JSON object",
    b'{"text": ' + b"[" * 100_000: "is nested too deeply",
    b'{"text": "a", "n": ' + b"9" * 5000 + b"}": "holds a number that is too long",
    b'{"text": "a", "n": NaN}': "holds NaN or Infinity, which JSON has not",
    b'{"text": "\\ud800"}': "holds a lone surrogate",
    b'{"text": "a", "text": "b"}': "names a key twice",
    b'{"text": "caf\xe9"}': "is not UTF-8: byte 13 of the line, invalid continuation byte",
}


def test_a_bad_line_costs_itself_only(tmp_path: Path, isolation: Isolation) -> None:
    """Every kind of broken line is refused with its reason, and the good lines between them are kept."""
    lines = [line for bad in BAD_LINES for line in (bad, b'{"text": "good"}')]
    found = list(read(put(tmp_path, a__jsonl=b"\n".join(lines)), isolation).values())
    assert found == [text for reason in BAD_LINES.values() for text in (f"refused: {reason}", "good")]


def test_lines_end_at_the_line_feed_only(tmp_path: Path, isolation: Isolation) -> None:
    """U+2028, U+0085, a form feed, NUL and other controls stay in their record as they are; cleaning has the policy."""
    text = "a\u2028b\u0085c\fd\x00e\x1ff\rg"
    content = (json.dumps({"text": text}, ensure_ascii=False) + '\n{"text": "b"}\r\n').encode()
    found = read(put(tmp_path, a__jsonl=b"\xef\xbb\xbf" + content, b__txt=text.encode()), isolation)
    assert found == {"a.jsonl:1": text, "a.jsonl:2": "b", "b.txt": text}


TABLE_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TABLE_TEXT, min_size=1, max_size=5))
def test_json_lines_list_and_tables_say_the_same(tmp_path: Path, isolation: Isolation, texts: list[str]) -> None:
    """Any texts come back equal from JSON lines, a JSON list and a table, whoever wrote it."""
    import csv

    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    put(
        tmp_path,
        a__jsonl="\n".join(json.dumps({"text": text}) for text in texts).encode(),
        b__json=json.dumps([{"text": text} for text in texts]).encode(),
        c__csv=file.getvalue().encode(),
    )
    assert list(read(tmp_path, isolation).values()) == texts * 3


def test_a_lost_quote_costs_one_record(tmp_path: Path, isolation: Isolation) -> None:
    """A quote that is never closed does not swallow the records after it; a record of other columns is refused."""
    table = b'n,text\n1,one\n2,"two\n3,three\n4\n5,fi\xffve\n6,"s\nix"\n'
    assert read(put(tmp_path, a__csv=table), isolation) == {
        "a.csv:2": "one",
        "a.csv:3": "refused: has quotes that do not match",
        "a.csv:4": "three",
        "a.csv:5": "refused: has 1 columns, but the first line has 2",
        "a.csv:6": "refused: is not UTF-8",
        "a.csv:7": "s\nix",
    }


def test_a_declared_encoding_is_used_and_no_other(tmp_path: Path, isolation: Isolation) -> None:
    """Without a declaration Latin-1 and UTF-16 are refused; with it both read, as text and as a table."""
    put(tmp_path, a__txt="café".encode("latin-1"), b__csv="text\ncafé\n".encode("latin-1"))
    assert [text[:8] for text in read(tmp_path, isolation).values()] == ["refused:", "refused:"]
    assert list(read(tmp_path, isolation, encoding="latin-1").values()) == ["café", "café"]
    put(tmp_path, a__txt="café".encode("utf-16"), b__csv="text\ncafé\n".encode("utf-16"))
    assert list(read(tmp_path, isolation, encoding="utf-16").values()) == ["café", "café"]


def test_a_page_says_its_own_encoding(tmp_path: Path, isolation: Isolation) -> None:
    """HTML that declares a charset in <meta> is read by it; menus and scripts are no text."""
    page = '<html><head><meta charset="iso-8859-1"><script>x</script></head><body><nav><a href="/">Home</a></nav>'
    page += "<main><p>Le café est fermé.</p></main></body></html>"
    assert read(put(tmp_path, a__html=page.encode("latin-1")), isolation) == {"a.html": "Le café est fermé."}


def test_a_file_that_kills_its_reader_is_refused_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the process apart dies or hangs over a file, that file is refused, and another process reads the next."""
    put(tmp_path, a__parquet=seeds()["parquet"][1], b__parquet=seeds()["parquet"][1])
    with Isolation(cpu_seconds=1) as alone:
        child = alone._child()
        connection = child._started()
        assert child._process
        child._process.kill()
        child._process.wait()
        assert connection.fileno() >= 0
        monkeypatch.setattr(child._process, "poll", lambda: None)  # it dies between the look and the request
        found = read(tmp_path, alone)
        assert found.pop("a.parquet") == "refused: is damaged so that its reader ends; make the file again"
        assert list(found.values()) == TEXTS
        child._started()
        child._process.send_signal(signal.SIGSTOP)  # it hangs without using the CPU
        monkeypatch.setattr(isolation_module, "_WALL_FACTOR", 0.1)
        assert read(tmp_path / "a.parquet", alone) == {
            "a.parquet": "refused: takes too long to read, as a damaged or hostile file does"
        }


def test_repeated_files_are_counted(tmp_path: Path, isolation: Isolation) -> None:
    """Copies are read like any file, in the order of names, and counted in the facts."""
    put(tmp_path, b__txt=b"same", a__txt=b"same", c__txt=b"other")
    corpus = Corpus(isolation)
    entry = Entry(path=str(tmp_path), kind="documents", licence="CC0-1.0", origin="a test")
    names = [record.name for record in corpus.read("s", entry, key="k")]  # type: ignore[union-attr]
    assert names == ["a.txt", "b.txt", "c.txt"]
    facts = corpus.facts["s"]
    assert (facts["files"], facts["repeated_files"], facts["bytes"], facts["records"]) == (3, 1, 13, 3)


def test_a_large_file_is_read_twice_and_gives_the_same(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the rows do not fit what may be held, a second pass gives them, the file being known to be good."""
    expected = read(put(tmp_path, a__json=seeds()["json"][1], b__warc=seeds()["warc"][1]), isolation)
    monkeypatch.setattr(reading, "HELD_BYTES", 100)
    monkeypatch.setattr(reading, "SMALL_FILE_BYTES", 10)
    assert read(tmp_path, isolation) == expected


LONG_LINE = """
import resource, sys
from pathlib import Path
limit = 1500 << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation
from pipeline.cleaning.rejections import Rejection
with Isolation() as isolation:
    entry = Entry(path=sys.argv[1], kind="documents", licence="x", origin="x")
    for record in Corpus(isolation).read("s", entry, key="k"):
        print(record.name, record.reason if isinstance(record, Rejection) else record.text)
status = Path("/proc/self/status").read_text()  # of this program alone; ru_maxrss counts what its parent had
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_line_of_512_mib_costs_little_memory(tmp_path: Path) -> None:
    """It is refused, its neighbours are kept, and the process grows by a few record limits at most."""
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "one"}\n{"text": "')
        for _ in range(512):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "two"}\n')
    done = subprocess.run(
        [sys.executable, "-c", LONG_LINE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *said, peak_mib = done.stdout.splitlines()
    assert said == [
        "a.jsonl:1 one", "a.jsonl:2 too long: 536,870,924 bytes, of at most 16,777,216 in a line", "a.jsonl:3 two",
    ]  # fmt: skip
    assert int(peak_mib) < 300


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path, isolation: Isolation) -> None:
    """With semicolons between, and empty columns without a name."""
    (tmp_path / "a.csv").write_text("text;;\none, two;;\n")
    assert read(tmp_path, isolation, delimiter=";") == {"a.csv:2": "one, two"}
    (tmp_path / "a.csv").write_bytes(b"text,n\rone,1\r")
    assert read(tmp_path, isolation) == {
        "a.csv": "refused: has lines that end in a carriage return alone; write them with line feeds"
    }


def test_a_file_without_a_record_says_so(tmp_path: Path, isolation: Isolation) -> None:
    """A table of a header alone, an empty list, an archive of nothing: none disappears without a word."""
    files = {"a.csv": b"text\n", "b.json": b"[]", "c.jsonl": b"", "d.zip": zipped({}), "e.txt.gz.gz": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said = dict.fromkeys(files, "refused: holds no record") | {
        "e.txt.gz.gz": "refused: files named .gz.gz are not read"
    }
    assert read(tmp_path, isolation) == said


def test_a_large_member_of_a_zip_needs_no_disk(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read from beginning to end is read twice, and not unpacked; a damaged end costs all of that member."""

    def nothing(*_: object) -> None:
        raise AssertionError("unpacked")

    monkeypatch.setattr(reading, "spooled", nothing)
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(1000))
    place = tmp_path / "a.zip"
    place.write_bytes(zipped({"a.jsonl": lines, "b.csv": b"text\none\n", "c.txt": b"whole"}))
    found = read(place, isolation)
    assert (len(found), found["a.zip/a.jsonl:1000"], found["a.zip/b.csv:2"]) == (1002, "999", "one")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_what_fails_in_the_machine_is_not_called_damaged(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Or the same files would be another corpus on another day."""

    def fails(*_: object, **__: object) -> bytes:
        raise OSError(number, "fails")

    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"one"}))
    monkeypatch.setattr(zipfile.ZipExtFile, "read", fails)
    with pytest.raises(OSError, match="fails"):
        read(tmp_path, isolation)
