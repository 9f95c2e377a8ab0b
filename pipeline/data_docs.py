"""Goes in: Data Docs as Great Expectations writes them. Comes out: the same pages, readable without a network.

Its pages fetch style sheets and scripts from nine hosts: without them they are bare and their index is empty, and with
them every look at a private corpus' report tells those hosts about it. Here all that is taken out, a style sheet of
our own put in, and the index, which was drawn by one of those scripts, written as plain HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL)
_REMOTE_LINK = re.compile(r"<link\b[^>]*https?://[^>]*>")
_REMOTE_IMAGE = re.compile(r"<img\b[^>]*https?://[^>]*>")
# What only scripts could do: filters, a newsletter, a tour of the product.
_ACTIONS = re.compile(
    r'<div class="card mb-3">\s*<div class="card-header p-2">\s*<strong>Actions</strong>.*?(?=<div class="card d-md)',
    re.DOTALL,
)
_FOOTER = re.compile(r"<footer\b.*?</footer>", re.DOTALL)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0;color:#1c2430;background:#fff}
.navbar{padding:.6rem 1.5rem;border-bottom:1px solid #d8dde4;height:auto!important}
.container-fluid{padding:0 1.5rem;box-sizing:border-box}
.row{display:flex;flex-wrap:wrap;gap:1.5rem}.col-md-2{flex:0 0 15rem}.col-md-10{flex:1 1 40rem;min-width:0}
.col-12{flex:0 0 100%}.col-6{flex:1 1 20rem}
ul,ol{list-style:none;padding-left:0;margin:0}a{color:#1559b7;text-decoration:none}a:hover{text-decoration:underline}
.nav-link{display:block;padding:.2rem .5rem}.breadcrumb{display:flex;gap:.5rem}
.card{border:1px solid #d8dde4;border-radius:6px;margin:.6rem 0}.card-header{padding:.4rem .7rem;background:#f3f5f8}
.card-body{padding:.3rem}.alert{background:#f3f5f8;border-radius:6px;padding:.5rem .8rem;margin:.8rem 0 .4rem}
h1{font-size:1.5rem}h4{font-size:1.1rem;margin:.8rem 0 .2rem}h5{font-size:1.05rem;margin:0}
h6,.h6{margin:0;font-weight:600}
table{border-collapse:collapse;width:100%}
td,th{border-top:1px solid #e4e8ee;padding:.35rem .6rem;text-align:left;vertical-align:top}
.badge{background:#e8ecf2;border-radius:4px;padding:0 .35rem;font-size:.9em}
.text-success,.held{color:#157a3d}.text-danger,.broken{color:#b3261e}
.fa-check-circle::before{content:"\\2714"}.fa-times::before,.fa-times-circle::before{content:"\\2718"}
.fa-exclamation-triangle::before{content:"\\26A0"}.collapse{font-size:.9em;color:#4a5565}i{font-style:normal}
"""


@dataclass(frozen=True)
class Line:
    """One line of the index: a suite, its table's rows, and how its expectations fared."""

    suite: str
    rows: int
    held: int
    expectations: int


def make_self_contained(folder: Path, lines: Sequence[Line]) -> None:
    """Rewrite every page below `folder` in place, and write its index."""
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for pattern in (_SCRIPT, _REMOTE_LINK, _REMOTE_IMAGE, _ACTIONS, _FOOTER):
            text = pattern.sub("", text)
        page.write_text(text.replace("</head>", f"<style>{_STYLE}</style>\n</head>", 1), encoding="utf-8")
    (folder / "index.html").write_text(_index(folder, lines), encoding="utf-8")


def _index(folder: Path, lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        verdict = "held" if line.held == line.expectations else "broken"
        [page] = folder.glob(f"validations/{line.suite}/**/*.html")
        links = (
            f'<a href="{page.relative_to(folder).as_posix()}">results</a> · '
            f'<a href="expectations/{line.suite}.html">what is expected</a>'
        )
        rows.append(
            f"<tr><td>{html.escape(line.suite)}</td><td>{line.rows:,}</td>"
            f'<td class="{verdict}">{line.held} of {line.expectations} hold</td><td>{links}</td></tr>'
        )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Data Docs</title>'
        f"<style>{_STYLE}</style>"
        '</head>\n<body><div class="container-fluid"><h1>Data Docs</h1>\n'
        "<p>What was checked before training. Its tables hold lengths, shares and labels, never the texts.</p>\n"
        "<table><thead><tr><th>Data</th><th>Rows</th><th>Expectations</th><th></th></tr></thead>\n<tbody>"
        + "\n".join(rows)
        + "</tbody></table></div></body>\n</html>\n"
    )
