"""Goes in: a web page. Comes out: the text that a reader of the page would call its content.

Menus, scripts and footers are left out by resiliparse's rules. The encoding is what is declared, by the user or else
by the page's own <meta charset>; without either it is UTF-8.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.sources.rows import Budget, Options, RefusedError, Row, whole
from pipeline.sources.text import decoded

_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
# The WHATWG's encoding standard: pages that say Latin-1 or ASCII mean windows-1252.
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252"}
_META_WITHIN_BYTES = 1024  # where the same standard looks for it
# The parser keeps the page as a tree and walks it by recursion.
NESTING_LIMIT = 2000


def read(stream: BinaryIO, options: Options, _budget: Budget) -> Iterator[Row]:
    """The one text of the page."""
    content = whole(stream)
    yield Row({"text": extracted(content, options.encoding)}, raw=content)


def extracted(content: bytes, encoding: str = "utf-8") -> str:
    """A page's text; RefusedError where its bytes are not of its encoding, or nothing can be read in it."""
    from resiliparse.extract.html2text import extract_plain_text

    page = decoded(content, _declared(content) if encoding == "utf-8" else encoding)
    if not page.strip():
        return ""
    if page.count("<") - page.count("</") > NESTING_LIMIT and _depth(page) > NESTING_LIMIT:
        raise RefusedError(f"nests elements more than {NESTING_LIMIT:,} deep")
    try:
        text = extract_plain_text(page, preserve_formatting=True, main_content=True, alt_texts=False)
        # A page whose whole text looks like a menu to the rules is better taken whole than lost.
        text = text if text.strip() else extract_plain_text(page, preserve_formatting=True, alt_texts=False)
    except Exception as error:  # the parser has an exception of its own, and quotes the page in none of ours
        raise RefusedError("is not HTML that can be parsed") from error
    return str(text)


def _declared(content: bytes) -> str:
    found = _META.search(content, 0, _META_WITHIN_BYTES)
    if content.startswith(codecs.BOM_UTF8) or not found:
        return "utf-8"
    return python_name(found[1].decode("ascii"))


def python_name(charset: str) -> str:
    """The codec of a charset that a page or a server names; UTF-8 for a name that nobody knows."""
    try:
        known = codecs.lookup(charset)
        "".encode(charset)  # some codecs are no encodings of text
    except (LookupError, ValueError, TypeError):
        return "utf-8"
    name = _MEANT.get(known.name, known.name)
    # A page that could be searched for "charset" in ASCII is not UTF-16, whatever it says (again the WHATWG's rule).
    return "utf-8" if name.startswith("utf-16") else name


_VOID = (
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "p",
    "li",
    "source",
    "track",
    "wbr",
)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)[^<>]*?(/?)>")


def _depth(page: str) -> int:
    """An estimate, from above, of how deep the elements nest."""
    depth = deepest = 0
    for closing, name, itself in _TAG.findall(page):
        if closing:
            depth = max(0, depth - 1)
        elif not itself and name.lower() not in _VOID:
            depth += 1
            deepest = max(deepest, depth)
    return deepest
