"""Goes in: a title and pieces of HTML. Comes out: a page that asks no other host for anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:0 1.5rem 3rem;color:#1c2430}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{border-top:1px solid #e4e8ee;padding:.3rem .8rem;text-align:left;vertical-align:top}
td{white-space:pre-wrap;overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f3f5f8;border-radius:6px;padding:.5rem .8rem;
margin:.3rem 0;font-size:.85rem}
img{max-width:100%}a{color:#1559b7}summary{cursor:pointer;padding:.2rem 0}.quiet{color:#4a5565}
"""


def write_page(path: Path, title: str, pieces: Iterable[str]) -> None:
    """Write the page; `pieces` are HTML already."""
    path.write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>" + "\n".join(pieces) + "</body></html>\n",
        encoding="utf-8",
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """A table of plain texts, escaped here; the columns of these numbers stand to the right."""
    right = set(numeric)

    def line(cells: Sequence[str], tag: str) -> str:
        parts = (f"<{tag}{' class=n' if i in right else ''}>{html.escape(c)}</{tag}>" for i, c in enumerate(cells))
        return f"<tr>{''.join(parts)}</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
