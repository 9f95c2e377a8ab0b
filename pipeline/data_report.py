"""Goes in: the manifests of ingest and clean, the quarantine, the clean documents. Comes out: a page to look at.

data/reports/data_report/index.html says how many documents and bytes went in and what became of them, by source and
by rule, with a few examples and pictures. It asks no other host for anything, and personal data in its examples is
masked; still it holds texts of the corpus, so it stays in the data folder, outside git and outside the run's record.
"""

from __future__ import annotations

import html
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cleaning.personal_data import mask_all
from pipeline.cleaning.rejections import EXCERPT_CHARACTERS
from pipeline.cleaning.tally import rule_of
from pipeline.columns import Values
from pipeline.documents import learned_texts
from pipeline.manifest import Manifest, read
from pipeline.quarantine import dropped_record, read_changes, read_rejections
from pipeline.web_page import table, write_page

EXAMPLES_PER_RULE = 3


def write(
    folder: Path,
    *,
    documents: Path,
    examples: Path,
    refused: Path,
    dropped: Path,
    data_docs: Path,
    quality: Mapping[str, Values],
) -> Path:
    """Write the page of a run and its pictures; the path of the page. `quality` are measures of some documents."""
    from pipeline import pictures

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = read(documents).facts
    sources: dict[str, Any] = facts["by_source"]
    total = _sum(sources.values())
    pictures.draw_bars(
        {"in": total["lengths_in"], "out": total["lengths_out"]},
        "Documents by length", "characters, from", folder / "lengths.png",
    )  # fmt: skip
    pictures.draw_ranges(_ranges(quality), "The clean documents, and what rules would keep", folder / "quality.png")
    kinds = {"documents": total, **read(examples).facts["by_kind"]}
    page = [
        "<h1>Data report</h1>",
        f"<p>{total['records_in']:,} documents of {_size(total['bytes_in'])} went in, {total['records_out']:,} of "
        f"{_size(total['bytes_out'])} came out. What was checked of them is in the "
        f'<a href="../{html.escape(data_docs.name)}/index.html">Data Docs</a>.</p>',
        "<h2>What came in and what is left</h2>",
        _flow({**kinds, **{f"documents of {name}": counts for name, counts in sources.items()}}),
        '<p><img src="lengths.png" alt="Documents by length, before and after"></p>',
        "<h2>Why records were dropped</h2>",
        _reasons(read(refused), kinds),
        "<h2>What was changed</h2>",
        _counts({name: counts["changed"] for name, counts in kinds.items()}, "Nothing was changed."),
        "<h2>Personal data and secrets</h2>",
        _counts({name: counts["personal_data"] for name, counts in kinds.items()}, "None was found."),
        _evaluations(facts),
        "<h2>Quality</h2>",
        f"<p>Each measure of {_pictured(quality, total['records_out'])}; outside the shaded range the rule of that "
        "name drops a document, where it is switched on.</p>",
        '<p><img src="quality.png" alt="Distributions of quality measures"></p>',
        "<h2>Examples of what was dropped</h2>",
        '<p class="quiet">Personal data is masked here; <code>homegrown quarantine</code> lists all of it.</p>',
        *_dropped_examples(dropped),
        "<h2>Examples of what was changed</h2>",
        *_changed_examples(dropped),
    ]
    path = folder / "index.html"
    write_page(path, "Data report", page)
    return path


def _sum(tallies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of several sources as one."""
    total: dict[str, Any] = defaultdict(int)
    for tally in tallies:
        for key, value in tally.items():
            if isinstance(value, Mapping):
                total[key] = Counter(total[key] or {}) + Counter(value)
            else:
                total[key] += value
    return {key: dict(value) if isinstance(value, Counter) else value for key, value in total.items()}


def _ranges(quality: Mapping[str, Values]) -> dict[str, tuple[Values, float, float]]:
    """For each measure to draw, its values, and the range that its rule keeps."""
    from pipeline.cleaning.quality import RULES

    return {name: (values, RULES[name].low, RULES[name].high) for name, values in quality.items()}


def _pictured(quality: Mapping[str, Values], count: int) -> str:
    some = max((len(values) for values in quality.values()), default=0)
    return f"{some:,} of the clean documents" if some < count else "the clean documents"


def _flow(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, counts in rows.items():
        reasons = ", ".join(f"{count:,} {rule}" for rule, count in counts["dropped"].items()) or "–"
        numbers = [f"{counts['records_in']:,}", _size(counts["bytes_in"]), f"{counts['records_out']:,}",
                   _size(counts["bytes_out"])]  # fmt: skip
        lines.append([name, *numbers, reasons])
    return table(["", "records in", "bytes in", "records out", "bytes out", "dropped"], lines, numeric=range(1, 5))


def _reasons(refused: Manifest, kinds: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [["ingest", "sources", reason, f"{count:,}"] for reason, count in refused.facts["by_reason"].items()]
    for kind, counts in kinds.items():
        rows += [["clean", kind, rule, f"{count:,}"] for rule, count in counts["dropped"].items()]
    return table(["stage", "kind", "reason", "records"], rows, numeric=[3]) if rows else "<p>None was dropped.</p>"


def _counts(kinds: Mapping[str, Mapping[str, int]], none: str) -> str:
    rows = [[kind, key.replace("_", " "), f"{n:,}"] for kind, counts in kinds.items() for key, n in counts.items()]
    return table(["kind", "what", "count"], rows, numeric=[2]) if rows else f"<p>{none}</p>"


def _evaluations(facts: Mapping[str, Any]) -> str:
    heading = "<h2>Contamination</h2>"
    if "evaluation_texts" not in facts:
        return f"{heading}<p>Not looked for: clean.drop_contaminated is false.</p>"
    short = facts["evaluation_texts_too_short"]
    rows = [[name, f"{count:,}", f"{short[name]:,}"] for name, count in facts["evaluation_texts"].items()]
    return heading + table(["evaluation set", "texts looked for", "too short to look for"], rows, numeric=[1, 2])


def _dropped_examples(dropped: Path) -> list[str]:
    shown: dict[str, list[str]] = defaultdict(list)
    for rejection in read_rejections(dropped):
        rule = rule_of(rejection.reason)
        if len(shown[rule]) < EXAMPLES_PER_RULE:
            where = html.escape(f"{rejection.source} {rejection.name[:12]}… {rejection.reason}")
            record = dropped_record(rejection.source, rejection.raw)
            text = " | ".join(learned_texts(record)) if record else ""
            shown[rule].append(f"<div>{where}{_excerpt(text)}</div>")
    return [f"<details><summary>{html.escape(r)}</summary>{''.join(e)}</details>" for r, e in sorted(shown.items())]


def _changed_examples(dropped: Path) -> list[str]:
    return [
        f"<details><summary>{html.escape(change.rule)}, {html.escape(change.source)} {change.name[:12]}…</summary>"
        f"before{_excerpt(change.before)}after{_excerpt(change.after)}</details>"
        for change in read_changes(dropped)
    ]


def _excerpt(text: str) -> str:
    # Masked before it is cut: half an address has no form to be found by.
    shown = mask_all(text[: 4 * EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]
    visible = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in shown)
    return f"<pre>{html.escape(visible)}</pre>"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:,.1f} kB"
