"""What reading Python's own documentation promises: a document per documented object, nothing run, nothing lost."""

from __future__ import annotations

import ast
import hashlib
import sys
from email.message import Message
from pathlib import Path

import pytest

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Document
from pipeline.sources.python_docs import ORIGIN, docstrings, environment_docs, language_topics, library_docs, licence_of

LONG = "A sentence that is long enough to keep."


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def install(folder: Path, name: str, files: dict[str, str | bytes], metadata: str = "", record: bool = True) -> None:
    """What pip leaves of a distribution in site-packages."""
    info = f"{name}-1.0.dist-info"
    write(folder, files | {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}\n"})
    if record:
        write(folder, {f"{info}/RECORD": "".join(f"{file},,\n" for file in files)})


def documents(records: object) -> list[tuple[str, str]]:
    return [(r.name, r.text) for r in records if isinstance(r, Document)]  # type: ignore[attr-defined]


SOURCE = '''
"""The module.

    Indented a little.
      Indented more.
"""
if True:
    def f():
        """F one."""
else:
    def f():
        """F two."""
class C:
    """C."""
    async def m(self):
        """M."""
        class Inner: "Inner."
    @property
    def p(self): "P."
    x = 1
    """No docstring: it follows a variable."""
try: pass
except ValueError:
    def handler(): "Handler."
match 1:
    case 1:
        def case(): "Case."
def silent(): return lambda: 0
def empty(): ""
'''


def test_every_documented_object_is_found_where_it_stands() -> None:
    """Modules, classes, functions, methods and what is nested in them, in the file's order, unindented."""
    assert list(docstrings("m", ast.parse(SOURCE))) == [
        ("m", "The module.\n\nIndented a little.\n  Indented more."),
        ("m.f", "F one."),
        ("m.f#2", "F two."),
        ("m.C", "C."),
        ("m.C.m", "M."),
        ("m.C.m.<locals>.Inner", "Inner."),
        ("m.C.p", "P."),
        ("m.handler", "Handler."),
        ("m.case", "Case."),
    ]


def test_a_library_folder_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    """Names are module names, tests and programs are left out, short docstrings too."""
    doc = f'"""{LONG}"""'
    write(
        tmp_path,
        {
            "z.py": doc, "a/__init__.py": doc, "a/b.py": doc, "a-b.py": doc, "a.txt": doc, "short.py": '"Too short."',
            "test/t.py": doc, "a/tests/t.py": doc, "idlelib/i.py": doc, "distutils/d.py": doc,
            "site-packages/s.py": doc, "a/__pycache__/c.py": doc,
        },
    )  # fmt: skip
    assert list(library_docs(tmp_path)) == [
        Document.of(source="python-library", name=name, licence="PSF-2.0", origin=ORIGIN, text=LONG)
        for name in ("a-b", "a", "a.b", "z")
    ]


def test_nothing_is_run(tmp_path: Path) -> None:
    """A module whose import would fail and write a file gives its docstring and does neither."""
    write(tmp_path, {"m.py": f'"""{LONG}"""\nopen({str(tmp_path / "ran")!r}, "w"); raise SystemExit(1)'})
    assert documents(library_docs(tmp_path)) == [("m", LONG)]
    assert not (tmp_path / "ran").exists()


BAD = {
    "syntax": b"def f(:\n",
    "nul": b"x = 1\x00\n",
    "encoding": b"# -*- coding: no-such-codec -*-\n",
    "utf8": b"x = '\xff'\n",
    "deep": b"x = " + b"-" * 300_000 + b"1\n",
    "brackets": b"x = " + b"(" * 5000 + b")" * 5000,
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_python_is_refused_and_its_neighbours_are_kept(tmp_path: Path, name: str) -> None:
    """The rejection holds the file's bytes and their digest, and names only the type of the error."""
    write(tmp_path, {"a.py": f'"""{LONG}"""', "bad.py": BAD[name], "c.py": f'"""{LONG}"""'})
    first, refused, last = library_docs(tmp_path)
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert isinstance(refused, Rejection)
    assert (refused.source, refused.name, refused.raw) == ("python-library", "bad.py", BAD[name])
    assert refused.sha256 == hashlib.sha256(BAD[name]).hexdigest()
    assert refused.reason.startswith("is not Python: ")


def test_a_declared_encoding_is_obeyed(tmp_path: Path) -> None:
    """Python source says its own encoding; a latin-1 file that declares it is read as such."""
    text = LONG + " Café"
    write(tmp_path, {"m.py": b'# -*- coding: latin-1 -*-\n"""' + text.encode("latin-1") + b'"""'})
    assert documents(library_docs(tmp_path)) == [("m", text)]


def test_a_lone_surrogate_is_refused(tmp_path: Path) -> None:
    """A docstring that UTF-8 cannot hold is a rejection; the module's others are kept."""
    write(tmp_path, {"m.py": f'"""{LONG}\\ud800"""\ndef f(): "{LONG}"'})
    refused, kept = library_docs(tmp_path)
    assert isinstance(refused, Rejection)
    assert (refused.name, refused.reason) == ("m", "holds a lone surrogate")
    assert isinstance(kept, Document)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    """A broken link among the files costs that file only."""
    (tmp_path / "m.py").symlink_to("gone.py")
    (refused,) = library_docs(tmp_path)
    assert isinstance(refused, Rejection)
    assert refused.reason == "cannot be read: No such file or directory"


def test_installed_distributions_are_read_by_name(tmp_path: Path) -> None:
    """Source and licence name the distribution; a file that two of them list is read once, our own never."""
    doc = f'"""{LONG}"""'
    install(tmp_path, "Zeta", {"zeta.py": doc, "shared.py": doc, "zeta/tests/t.py": doc}, "License-Expression: MIT")
    install(tmp_path, "alpha_one", {"alpha/__init__.py": doc, "alpha/x.c": doc, "shared.py": doc})
    install(tmp_path, "homegrown", {"own.py": doc})
    write(tmp_path, {"unlisted.py": doc})
    records = list(environment_docs([tmp_path]))
    assert [(r.source, r.name, r.licence) for r in records if isinstance(r, Document)] == [
        ("environment/alpha-one-1.0", "alpha", "not stated"),
        ("environment/alpha-one-1.0", "shared", "not stated"),
        ("environment/zeta-1.0", "zeta", "MIT"),
    ]
    assert len(records) == 3


def test_a_list_of_files_cannot_lead_out_of_site_packages(tmp_path: Path) -> None:
    """Scripts and whatever else a RECORD places above the folder are not read."""
    doc = f'"""{LONG}"""'
    site = tmp_path / "site"
    write(tmp_path, {"above.py": doc})
    install(site, "sly", {"../above.py": doc, str(tmp_path / "absolute.py"): doc, "in.py": doc})
    assert [name for name, _ in documents(environment_docs([site]))] == ["in"]


def test_a_distribution_without_a_list_is_refused(tmp_path: Path) -> None:
    """Its files cannot be told from others', so it is named rather than passed over."""
    install(tmp_path, "loose", {"loose.py": f'"""{LONG}"""'}, record=False)
    (refused,) = environment_docs([tmp_path])
    assert isinstance(refused, Rejection)
    assert (refused.name, refused.reason) == ("loose", "the distribution has no list of its files")


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT OR Apache-2.0", "License": "other"}, "MIT OR Apache-2.0"),
        ({"Classifier": "License :: OSI Approved :: MIT License", "License": "other"}, "MIT License"),
        ({"Classifier": "License :: OSI Approved", "License": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"License": "Copyright (c) 2001\nAll rights reserved, and so on."}, "not stated"),
        ({"License": "UNKNOWN"}, "not stated"),
        ({}, "not stated"),
    ],
)
def test_a_licence_is_one_line(fields: dict[str, str], licence: str) -> None:
    """The SPDX expression counts first, then the classifiers, then a short License field."""
    metadata = Message()
    for name, value in fields.items():
        metadata[name] = value.replace("\n", "\n ")
    assert licence_of(metadata) == licence  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_default_corpus_is_the_size_that_is_promised() -> None:
    """Topics and library together give about 6,500 documents and 2.0 MB, each with an id of its own, twice alike."""
    records = [*language_topics(), *library_docs()]
    kept = [r for r in records if isinstance(r, Document)]
    assert len(kept) == len(records)
    assert len({r.id for r in kept}) == len(kept)
    assert 70 <= sum(r.source == "python-topics" for r in kept) <= 90
    if sys.version_info[:2] == (3, 11):
        assert 6000 < len(kept) < 7000
        assert 1_900_000 < sum(len(r.text.encode()) for r in kept) < 2_100_000
    assert "antigravity" not in sys.modules
