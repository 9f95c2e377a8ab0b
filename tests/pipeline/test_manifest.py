"""What an artefact promises: it is there whole or not at all, and its digest says what it is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import manifest
from pipeline.errors import DataError, InputOutputError, IntegrityError
from pipeline.manifest import commit, read, sweep, verify

Python = Callable[..., subprocess.CompletedProcess[str]]

# Commits artefact "there" with the text "new", and is killed by SIGKILL at the call of os, pathlib or shutil whose
# number is given; prints nothing if there were fewer calls.
KILLED_WRITER = """\
import os, pathlib, shutil, signal, sys
from pipeline.manifest import commit
left = int(sys.argv[1])
def counting(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.fsync = counting(os.fsync)
shutil.rmtree = counting(shutil.rmtree)
for name in ("mkdir", "rename", "write_text"):
    setattr(pathlib.Path, name, counting(getattr(pathlib.Path, name)))
with commit(pathlib.Path("there"), "texts") as draft:
    (draft.path / "one.txt").write_text("new")
print("survived")
"""


def write(folder: Path, text: str, **facts: object) -> None:
    with commit(folder, "texts") as draft:
        (draft.path / "one.txt").write_text(text)
        draft.facts.update(facts)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_ends_leaves_a_whole_artefact(tmp_path: Path) -> None:
    """After the block, the folder holds the files, and a manifest with kind, params, inputs, facts and digests."""
    write(tmp_path / "first", "1")
    with commit(tmp_path / "second", "sums", params={"of": 2}, inputs={"first": tmp_path / "first"}) as draft:
        (draft.path / "inner").mkdir()
        (draft.path / "inner" / "sum.txt").write_text("3")
        draft.facts["rows"] = 1
    assert names(tmp_path) == ["first", "second"]
    assert json.loads((tmp_path / "second" / "manifest.json").read_text()) == {
        "kind": "sums",
        "params": {"of": 2},
        "inputs": {"first": read(tmp_path / "first").digest},
        "facts": {"rows": 1},
        "files": {
            "inner/sum.txt": {
                "sha256": "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce",
                "size_bytes": 1,
            }
        },
    }


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    """If the block raises, the earlier artefact stands as it was, and nothing else lies beside it."""
    write(tmp_path / "there", "old")
    with pytest.raises(ZeroDivisionError), commit(tmp_path / "there", "texts") as draft:
        (draft.path / "one.txt").write_text("new")
        raise ZeroDivisionError
    assert (names(tmp_path), (tmp_path / "there" / "one.txt").read_text()) == (["there"], "old")
    verify(tmp_path / "there")


def test_a_failing_rename_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new folder cannot take its place, the earlier artefact is put back there and then."""
    write(tmp_path / "there", "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == tmp_path / "there" and "replaced" not in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputOutputError):
        write(tmp_path / "there", "new")
    assert (names(tmp_path), (tmp_path / "there" / "one.txt").read_text()) == (["there"], "old")


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_a_writer_killed_at_any_instant_leaves_the_old_artefact_or_the_new(
    tmp_path: Path, python: Python, before: str
) -> None:
    """Killed at each of its system calls in turn, a writer leaves old or new, never neither, never a mixture."""
    outcomes = []
    for call in range(1, 40):
        place = tmp_path / str(call)
        place.mkdir()
        if before == "old":
            write(place / "there", "old")
        ended = python("-c", KILLED_WRITER, str(call), cwd=place)
        sweep(place / "there")
        found = (place / "there" / "one.txt").read_text() if (place / "there").exists() else "nothing"
        outcomes.append(found)
        if (place / "there").exists():
            verify(place / "there")
        assert names(place) == ([] if found == "nothing" else ["there"])
        if ended.stdout:
            break
        assert ended.returncode == -9
    assert ended.stdout == "survived\n"
    switch = outcomes.index("new")
    assert outcomes == [before] * switch + ["new"] * (len(outcomes) - switch)
    assert switch >= 6


def test_the_next_commit_clears_up_after_a_killed_writer(tmp_path: Path, python: Python) -> None:
    """A new commit needs no sweep by hand: what the killed writer left is gone when it ends."""
    python("-c", KILLED_WRITER, "3", cwd=tmp_path)
    assert names(tmp_path) != []
    write(tmp_path / "there", "newer")
    assert (names(tmp_path), (tmp_path / "there" / "one.txt").read_text()) == (["there"], "newer")


def test_sweeping_touches_its_own_leftovers_only(tmp_path: Path) -> None:
    """What is left of `spam-large` or `my-spam` is not taken for leftovers of `spam`."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    others = [f".partial-{kind}{name}-{ended.pid}" for kind in ("", "replaced-") for name in ("spam-large", "my-spam")]
    for other in others:
        write(tmp_path / other, "another's")
    sweep(tmp_path / "spam")
    assert names(tmp_path) == sorted(others)


def test_the_leftovers_of_a_living_writer_stay(tmp_path: Path) -> None:
    """A folder that another living process is writing is not removed from under it."""
    with subprocess.Popen(["sleep", "60"]) as writer:
        (tmp_path / f".partial-there-{writer.pid}").mkdir()
        sweep(tmp_path / "there")
        left = names(tmp_path)
        writer.kill()
    assert left == [f".partial-there-{writer.pid}"]


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    """The digest depends on the content alone: not on place, time or order of writing; one byte more changes it."""
    write(tmp_path / "a", "text", x=1, y=2)
    write(tmp_path / "b", "text", y=2, x=1)
    write(tmp_path / "c", "text.", x=1, y=2)
    a, b, c = (read(tmp_path / name) for name in "abc")
    assert (a.digest, a) == (b.digest, b)
    assert a.digest != c.digest


@pytest.mark.parametrize("text", ["texT", "text and more", ""])
def test_altered_bytes_are_found_and_named(tmp_path: Path, text: str) -> None:
    """A flipped, lengthened or emptied file is an IntegrityError that names it."""
    write(tmp_path / "there", "text")
    (tmp_path / "there" / "one.txt").write_text(text)
    with pytest.raises(IntegrityError, match=r"there/one\.txt: its bytes are not those of the manifest"):
        verify(tmp_path / "there")


def test_a_missing_file_is_found_and_named(tmp_path: Path) -> None:
    """A file that the manifest names and the folder lacks is an IntegrityError."""
    write(tmp_path / "there", "text")
    (tmp_path / "there" / "one.txt").unlink()
    with pytest.raises(IntegrityError, match=r"there/one\.txt: named in the manifest but not there"):
        verify(tmp_path / "there")


def test_without_a_manifest_there_is_no_artefact(tmp_path: Path) -> None:
    """A folder without manifest.json is incomplete, whatever else it holds."""
    write(tmp_path / "there", "text")
    (tmp_path / "there" / "manifest.json").unlink()
    with pytest.raises(DataError, match="run the stage that makes it again"):
        read(tmp_path / "there")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"files": {"a": {}}}', '{"files": 3}', "\xff"])
def test_what_is_no_manifest_is_an_integrity_error(tmp_path: Path, text: str) -> None:
    """Text that is no manifest is refused by the file's name."""
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(IntegrityError, match=r"manifest\.json: not a manifest"):
        read(tmp_path)


def test_a_full_disk_leaves_the_earlier_artefact(tmp_path: Path, python: Python) -> None:
    """When a file cannot grow, the writer ends with InputOutputError naming the place, and clears up behind itself."""
    write(tmp_path / "there", "old")
    code = """\
import resource, sys
from pathlib import Path
from pipeline.errors import InputOutputError
from pipeline.manifest import commit
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with commit(Path("there"), "texts") as draft:
        (draft.path / "one.txt").write_text("x" * 5000)
except InputOutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    ended = python("-c", code, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (74, "")
    assert ended.stdout == (
        "writing there: there: the file would exceed the allowed size (ulimit -f); raise the limit and run again\n"
    )
    assert (names(tmp_path), (tmp_path / "there" / "one.txt").read_text()) == (["there"], "old")


def test_a_manifest_holds_no_place_time_or_process(tmp_path: Path) -> None:
    """Nothing in a manifest says where, when or by whom it was written."""
    write(tmp_path / "there", "text")
    text = (tmp_path / "there" / manifest.MANIFEST).read_text()
    assert str(tmp_path) not in text
    assert str(os.getpid()) not in text
