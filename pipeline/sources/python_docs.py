"""Goes in: the Python that runs this, and its packages. Comes out: their documentation, a document per object.

Nothing is imported but the table of language topics, which holds strings only: docstrings are read from the source with
`ast`, so no module's side effects happen, and the order depends on names alone.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path, PurePosixPath

from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Document

PYTHON_LICENCE = "PSF-2.0"
NO_LICENCE = "not stated"
ORIGIN = "documentation of the Python and the packages that made this corpus"
OWN_DISTRIBUTION = "homegrown"

# Shorter docstrings ("Return self+value.", "See base class.") are mostly labels; there is no prose to learn in them.
MINIMUM_CHARACTERS = 35
SOURCE_LIMIT_BYTES = 4 << 20
TOO_LARGE = f"larger than {SOURCE_LIMIT_BYTES:,} bytes, which no one has written by hand"

# Tests document nothing, and the other three hold packages that are not Python's own.
EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "_bundled"}
)
# Programs rather than modules, or gone from newer Pythons (distutils in 3.12, lib2to3 in 3.13): without them, Python
# 3.11 to 3.13 give nearly the same corpus.
EXCLUDED_LIBRARY = frozenset({"distutils", "idlelib", "lib2to3", "pydoc_data", "turtledemo"})

_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def language_topics() -> Iterator[Document]:
    """The topics of Python's language reference, as `help("topic")` shows them, sorted by topic."""
    from pydoc_data.topics import topics  # a dictionary of strings, half a megabyte: loaded only where it is read

    for name in sorted(topics):
        yield Document.of(source="python-topics", name=name, licence=PYTHON_LICENCE, origin=ORIGIN, text=topics[name])


def library_docs(folder: Path | None = None) -> Iterator[Document | Rejection]:
    """The docstrings of the standard library (in `folder`), sorted by file, then as they stand in it."""
    folder = folder or Path(sysconfig.get_path("stdlib"))
    files = []
    for place, inner, names in os.walk(folder):
        inside = PurePosixPath(Path(place).relative_to(folder).as_posix())
        inner[:] = [name for name in inner if name not in EXCLUDED_FOLDERS | EXCLUDED_LIBRARY]
        files += [(inside / name).as_posix() for name in names if name.endswith(".py")]
    yield from _docstrings_of(folder, sorted(files), source="python-library", licence=PYTHON_LICENCE)


def environment_docs(folders: Iterable[Path] | None = None) -> Iterator[Document | Rejection]:
    """The docstrings of every distribution installed in `folders` (site-packages), sorted by distribution, then file.

    One file is held at a time. A distribution without a list of files is a rejection; so is a file that does not parse.
    """
    if folders is None:
        folders = dict.fromkeys(Path(sysconfig.get_path(scheme)) for scheme in ("purelib", "platlib"))
    for folder in folders:
        found = {_normalised(d.metadata["Name"] or ""): d for d in distributions(path=[str(folder)])}
        taken: set[str] = set()  # two distributions may list one file; it is read once, for the first
        for name in sorted(found):
            if name == OWN_DISTRIBUTION:
                continue
            source = f"environment/{name}-{found[name].version}"
            listed = _python_files(found[name])
            if listed is None:
                yield Rejection.of(source=source, name=name, reason="the distribution has no list of its files")
                continue
            files = sorted(listed - taken)
            taken.update(files)
            yield from _docstrings_of(folder, files, source=source, licence=licence_of(found[name].metadata))


def licence_of(metadata: PackageMetadata) -> str:
    """A distribution's licence in one line: its SPDX expression, else its classifiers, else its License field."""
    stated = "".join(metadata.get_all("License-Expression", []))
    trove = [c.split("::")[-1].strip() for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    classifiers = [name for name in trove if name != "OSI Approved"]  # approved, but which?
    field = "".join(metadata.get_all("License", [])).strip()  # often the licence's whole text, which is not a name
    short_field = field if len(field) <= 100 and "\n" not in field and field.upper() != "UNKNOWN" else ""
    return stated.strip() or "; ".join(classifiers) or short_field or NO_LICENCE


def docstrings(module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module and of all it defines, as they stand in the file.

    Names are Python's own `__qualname__`s; a name defined again (a branch, an overload) is numbered: "open#2".
    """
    seen: Counter[str] = Counter()
    # A stack of (node, its name, prefix for what it holds): deep nesting costs memory, never a RecursionError.
    stack: list[tuple[ast.AST, str, str]] = [(tree, module, f"{module}.")]
    while stack:
        node, name, prefix = stack.pop()
        if isinstance(node, _Documented):
            seen[name] += 1
            if text := ast.get_docstring(node):
                yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), text
        for child in reversed(list(_inner_statements(node))):
            if isinstance(child, ast.ClassDef):
                stack.append((child, f"{prefix}{child.name}", f"{prefix}{child.name}."))
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                stack.append((child, f"{prefix}{child.name}", f"{prefix}{child.name}.<locals>."))
            else:
                stack.append((child, "", prefix))


def _inner_statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements directly inside one: its body, its branches, its handlers. Expressions hold no docstring."""
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        value = getattr(node, part, None)
        if isinstance(value, list):  # a lambda's or a conditional expression's body is no list
            yield from value


def _docstrings_of(folder: Path, files: Iterable[str], *, source: str, licence: str) -> Iterator[Document | Rejection]:
    for file in files:
        parts = PurePosixPath(file).with_suffix("").parts
        if EXCLUDED_FOLDERS.intersection(parts[:-1]):
            continue
        raw = b""
        try:
            with (folder / file).open("rb") as stream:
                raw = stream.read(SOURCE_LIMIT_BYTES + 1)
            if len(raw) > SOURCE_LIMIT_BYTES:
                yield Rejection.of(source=source, name=file, reason=TOO_LARGE, raw=raw)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's invalid escape sequences
                tree = ast.parse(raw)
        except OSError as error:
            yield Rejection.of(source=source, name=file, reason=f"cannot be read: {error.strerror}")
            continue
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            # ValueError is NUL bytes in 3.11; the message may quote the file, so only its type is told.
            yield Rejection.of(source=source, name=file, reason=f"is not Python: {type(error).__name__}", raw=raw)
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for name, text in docstrings(module, tree):
            if len(text) < MINIMUM_CHARACTERS:
                continue
            try:
                yield Document.of(source=source, name=name, licence=licence, origin=ORIGIN, text=text)
            except UnicodeEncodeError:
                raw_text = text.encode("utf-8", "surrogatepass")
                yield Rejection.of(source=source, name=name, reason="holds a lone surrogate", raw=raw_text)


def _python_files(distribution: Distribution) -> set[str] | None:
    if distribution.files is None:
        return None
    paths = (PurePosixPath(str(file)) for file in distribution.files)
    return {p.as_posix() for p in paths if p.suffix == ".py" and ".." not in p.parts and not p.is_absolute()}


def _normalised(distribution_name: str) -> str:
    return distribution_name.lower().replace("_", "-").replace(".", "-")
