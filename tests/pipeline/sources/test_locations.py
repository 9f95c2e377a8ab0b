"""What reading a folder of texts promises: every file becomes a document or a rejection."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest

from pipeline.cleaning.rejections import RAW_LIMIT_BYTES, Rejection
from pipeline.documents import Document
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation
from pipeline.sources.rows import RECORD_LIMIT_BYTES

CANARY = "SECRET-CANARY-7731"


def records(place: Path, licence: str = "not stated") -> list[Document | Rejection]:
    """What a source at that place gives."""
    entry = Entry(path=str(place), kind="documents", licence=licence, origin="a test")
    with Isolation() as isolation:
        return list(Corpus(isolation).read("texts", entry, key="ingest.texts"))  # type: ignore[arg-type]


def read(folder: Path) -> dict[str, str]:
    """What became of each entry: a document's text, or why it was refused."""
    return {r.name: r.text if isinstance(r, Document) else f"refused: {r.reason}" for r in records(folder)}


def only_rejection(folder: Path) -> Rejection:
    (record,) = records(folder)
    assert isinstance(record, Rejection)
    return record


def test_text_and_markdown_files_become_documents(tmp_path: Path) -> None:
    """A .txt or .md file, whatever the case of its suffix, is a document with source, licence and path."""
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "one.md").write_text("# Rain\n")
    (tmp_path / "two.TXT").write_text("Sun")
    assert records(tmp_path, licence="CC0-1.0") == [
        Document.of(source="texts", name="poems/one.md", licence="CC0-1.0", origin="a test", text="# Rain\n"),
        Document.of(source="texts", name="two.TXT", licence="CC0-1.0", origin="a test", text="Sun"),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_is_that_of_the_paths(tmp_path: Path, order: int) -> None:
    """Records come in the order of their POSIX paths, however the files were made and the system lists them."""
    names = ["a-b.txt", "a.txt", "a/b.txt", "a/c/d.txt", "a0.txt", "b.txt", "B.txt", "é.txt"]
    for name in names[::order]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(read(tmp_path)) == sorted(names, key=str.encode)


def test_other_files_are_named_and_never_opened(tmp_path: Path) -> None:
    """Other suffixes and names with a dot in front are refused by name; no byte of them is kept."""
    (tmp_path / "photo.png").write_bytes(CANARY.encode())
    (tmp_path / ".hidden.txt").write_text(CANARY)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.txt").write_text(CANARY)
    assert read(tmp_path) == {
        ".git": "refused: its name begins with a dot",
        ".hidden.txt": "refused: its name begins with a dot",
        "photo.png": "refused: files named .png are not read",
    }
    assert CANARY not in repr([r.raw for r in records(tmp_path) if isinstance(r, Rejection)])


def test_links_are_refused_wherever_they_lead(tmp_path: Path) -> None:
    """No link is followed: not out of the folder, not within it, not in a circle."""
    outside, folder = tmp_path / "outside", tmp_path / "texts"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret.txt").write_text(CANARY)
    (folder / "real.txt").write_text("here")
    (folder / "file.txt").symlink_to(outside / "secret.txt")
    (folder / "folder").symlink_to(outside)
    (folder / "inside.txt").symlink_to("real.txt")
    (folder / "nowhere.txt").symlink_to("gone.txt")
    (folder / "self").symlink_to(folder)
    (folder / "circle.txt").symlink_to("circle.txt")
    out = "refused: is a link that leads out of the folder; copy the file in"
    within = "refused: is a link to something in the folder, which is read at its own place"
    nowhere = "refused: is a link to nothing"
    circle = "refused: is a link that leads round to itself"
    assert read(folder) == {
        "circle.txt": circle, "file.txt": out, "folder": out, "inside.txt": within, "nowhere.txt": nowhere,
        "real.txt": "here", "self": within,
    }  # fmt: skip


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """The user names the folder, so a link there is followed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to("real")
    assert read(tmp_path / "link") == {"a.txt": "a"}


def test_pipes_and_sockets_are_refused_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to does not stop the reading."""
    os.mkfifo(tmp_path / "pipe.txt")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.txt")
        reason = "refused: is a pipe, a socket or a device, not a file"
        assert read(tmp_path) == {"pipe.txt": reason, "socket.txt": reason}


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """A UTF-8 BOM at the beginning is accepted and removed; another one is text."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\xef\xbb\xbf")
    assert read(tmp_path) == {"a.txt": "one\ufeff"}


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"caf\xe9 " + CANARY.encode(), 3),
        (b"\xef\xbb\xbf" + CANARY.encode() + b"\xff", 3 + len(CANARY)),
        (CANARY.encode("utf-16"), 0),
        (b"\xed\xa0\x80", 0),
        (b"end \xe2\x82", 4),
    ],
    ids=["latin-1", "after a BOM", "utf-16", "surrogate", "cut off"],
)
def test_what_is_not_utf8_is_refused_at_its_byte(tmp_path: Path, content: bytes, offset: int) -> None:
    """No other encoding is guessed: the file is kept whole in the rejection, and the reason does not quote it."""
    (tmp_path / "a.txt").write_bytes(content)
    rejection = only_rejection(tmp_path)
    assert (rejection.offset, rejection.raw, rejection.sha256) == (
        offset, content, hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    assert rejection.reason.startswith(f"is not UTF-8: byte {offset}, ")
    assert CANARY not in repr(rejection)


def test_a_file_over_the_limit_is_refused_and_hashed_whole(tmp_path: Path) -> None:
    """The limit is inclusive; beyond it the digest is the whole file's and the quarantine keeps its beginning."""
    (tmp_path / "a.txt").write_bytes(b"x" * RECORD_LIMIT_BYTES)
    assert read(tmp_path) == {"a.txt": "x" * RECORD_LIMIT_BYTES}
    content = b"y" * (RECORD_LIMIT_BYTES + 1)
    (tmp_path / "a.txt").write_bytes(content)
    rejection = only_rejection(tmp_path)
    assert rejection.reason == "too large: more than 16,777,216 bytes in one record; split it"
    assert rejection.sha256 == hashlib.sha256(content).hexdigest()
    assert rejection.raw == content[:RAW_LIMIT_BYTES]


def test_a_missing_folder_is_a_configuration_error(tmp_path: Path) -> None:
    """The error names the key in params.yaml and the place, and says whether something else is there."""
    with pytest.raises(ConfigurationError, match=r"ingest\.texts: .*nowhere does not exist"):
        records(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match=r"ingest\.texts: .*pipe is neither a folder nor a file"):
        records(tmp_path / "pipe")


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    """A file may stand where a folder may; its own name is the document's."""
    (tmp_path / "a.txt").write_text("one")
    assert read(tmp_path / "a.txt") == {"a.txt": "one"}


def test_a_file_that_changes_under_the_reader_stops_the_run(tmp_path: Path) -> None:
    """A text of which one half is old and one half new is never passed on."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * (15 << 20))
    writing, stop = threading.Event(), threading.Event()

    def append() -> None:
        with file.open("ab", buffering=0) as stream:
            while not stop.is_set():
                stream.write(b"y")
                writing.set()

    writer = threading.Thread(target=append)
    writer.start()
    try:
        writing.wait()
        with pytest.raises(IntegrityError, match=r"a\.txt: the file changed while it was read"):
            records(tmp_path)
    finally:
        stop.set()
        writer.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused_and_the_others_are_kept(tmp_path: Path) -> None:
    """Missing permission costs one file, or one folder, and is said."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "b").mkdir(mode=0)
    (tmp_path / "c.txt").write_text("c")
    try:
        assert read(tmp_path) == {
            "a.txt": "refused: cannot be read: Permission denied",
            "b": "refused: the folder cannot be listed: Permission denied",
            "c.txt": "c",
        }
    finally:
        (tmp_path / "b").chmod(0o700)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Such a name could not be written down again; the rejection shows its bytes."""
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("a")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert read(tmp_path) == {"caf\\xe9.txt": "refused: its name is not UTF-8"}


def test_folders_nest_deeper_than_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A very deep folder is read like a flat one."""
    depth = 1200
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        Path("d").mkdir()
        os.chdir("d")
    Path("a.txt").write_text("deep")
    try:
        assert list(read(tmp_path).values()) == ["deep"]
    finally:  # pytest would recurse to remove it
        Path("a.txt").unlink()
        for _ in range(depth):
            os.chdir("..")
            Path("d").rmdir()
