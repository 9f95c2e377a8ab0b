"""Goes in: a folder of text. Comes out: benchmarks/results/incremental.json, what 1 % more documents cost.

Text files are cut into documents of about 5 kB; where there is not text enough, it comes again with a share of its
words reversed. One in a hundred is held back, the last ones or every hundredth, and the stages from ingest to tokenize
run on 99 % and then on all of them: with what the first run remembered in data/scratch/memo, and with the memo deleted.
Each stage runs in a process of its own, timed without the start of Python and the loading of libraries, Great
Expectations and matplotlib among them; the artefacts must be equal byte for byte.

    python benchmarks/incremental.py FOLDER [FOLDER …] --ranks tokenizer.tiktoken --megabytes 60 [--as-pages]
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STAGES = ("ingest", "clean", "validate", "tokenize")
ARTEFACTS = (
    "documents/ingested", "documents/clean", "examples/clean", "quarantine/clean", "reports/validation", "tokens"
)  # fmt: skip
DOCUMENT_BYTES = 5000
# Which files come last: the new ones of a corpus that grows from day to day, or one in a hundred of an edited one.
HELD_BACK: dict[str, Callable[[list[Path]], list[Path]]] = {
    "at the end": lambda files: files[-(len(files) // 100) :],
    "here and there": lambda files: files[::100],
}

# Runs one stage as `python -m pipeline` would, without a record of it, and prints what it took.
STAGE = """\
import importlib, inspect, json, os, sys, time
from dataclasses import replace
from pathlib import Path
from pipeline.params import build, load
stage, ranks = sys.argv[1], sys.argv[2]
module = importlib.import_module(f"pipeline.stages.{stage}")
import pyarrow.compute
if stage == "validate":
    import great_expectations, matplotlib.pyplot, pandas
file = load(Path(sys.argv[3]))
values = file.values(stage)
values |= {"sources": ["texts"], "texts": "texts"} if stage == "ingest" else {}
values |= {"ranks": ranks or None, "vocab_size": 8192, "pattern": "gpt2"} if stage == "tokenize" else {}
class Report:
    def __getattr__(self, name):
        return lambda *arguments, **options: None
paths = {k: Path(v.replace("${ingest.texts}", "texts")) for k, v in {**module.READS, **module.WRITES}.items()}
params = build(module.Params, values, stage)
compute = replace(file.compute(), workers=int(sys.argv[4]))
offered = {"compute": compute} if "compute" in inspect.signature(module.run).parameters else {}
began, before = time.perf_counter(), os.times()
module.run(params, **paths, **offered, report=Report())
after = os.times()
cpu = sum(after[:4]) - sum(before[:4])
print(json.dumps({"wall_seconds": time.perf_counter() - began, "cpu_seconds": cpu}))
"""


def main() -> None:
    """Measure both ways and write the medians down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--ranks", type=Path, help="a ranks file; without it a vocabulary of 8,192 is trained")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--as-pages", action="store_true", help="write nine in ten as web pages, the tenth as a PDF")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="homegrown-incremental-") as folder:
        project = Path(folder)
        n_documents, n_bytes = lay_out(project, asked.folders, asked.megabytes * 1_000_000, pages=asked.as_pages)
        ranks = str(asked.ranks.resolve()) if asked.ranks else ""
        scratch = project / "data" / "scratch"
        for where, chosen in HELD_BACK.items():
            shutil.rmtree(scratch, ignore_errors=True)
            hide(project, chosen)
            run_all(project, ranks)
            scratch.rename(project / where)
            show(project)
        seconds: dict[str, dict[str, list[dict[str, float]]]] = {"full": {}, **{where: {} for where in HELD_BACK}}
        digests = set()
        for _ in range(asked.repeats):
            for way in seconds:
                shutil.rmtree(scratch, ignore_errors=True)
                if way in HELD_BACK:
                    shutil.copytree(project / way, scratch)
                for stage, took in run_all(project, ranks).items():
                    seconds[way].setdefault(stage, []).append(took)
                digests.add(b"".join((project / "data" / name / "manifest.json").read_bytes() for name in ARTEFACTS))
        if len(digests) != 1:
            sys.exit("the incremental run and the full one differ")
    result = {
        "documents": n_documents,
        "bytes": n_bytes,
        "vocabulary": "given" if asked.ranks else "trained",
        "medians_of": asked.repeats,
        "seconds": {
            way: {
                stage: {unit: round(statistics.median(t[unit] for t in took), 3) for unit in took[0]}
                for stage, took in stages.items()
            }
            for way, stages in seconds.items()
        },
        "byte_identical": True,
        "commit": git("rev-parse", "--short", "HEAD"),
        "hardware": f"{os.cpu_count()} × {processor()}, one used",
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "incremental.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    record["web pages and PDFs" if asked.as_pages else "plain text"] = result
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def lay_out(project: Path, folders: list[Path], limit: int, *, pages: bool = False) -> tuple[int, int]:
    """Write the corpus as files of whole lines; how many, and how many bytes of text."""
    (project / "texts").mkdir()
    (project / "data").mkdir(exist_ok=True)
    shutil.copytree(ROOT / "data" / "samples", project / "data" / "samples", dirs_exist_ok=True)
    (project / "data" / "erasures.txt").write_text("")
    number = total = 0
    for text in pieces(folders):
        if total > limit:
            break
        suffix, content = written(text, number) if pages else (".txt", text.encode())
        (project / "texts" / f"{number:06d}{suffix}").write_bytes(content)
        number, total = number + 1, total + len(text.encode())
    return number, total


def written(text: str, number: int) -> tuple[str, bytes]:
    """A text as a web page with a menu and a footer, or as a PDF; every tenth is the latter."""
    if number % 10 == 5:
        return ".pdf", pdf(text)
    menu = "".join(f'<li><a href="/{chapter}.html">Chapter {chapter}</a></li>' for chapter in range(20))
    body = "".join(f'<p class="body">{html.escape(piece)}</p>\n' for piece in text.split("\n\n"))
    head = f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>{number}</title></head>'
    page = f"{head}<body><nav><ul>{menu}</ul></nav><main>{body}</main><footer>Printed nowhere</footer></body></html>"
    return ".html", page.encode()


def pdf(text: str) -> bytes:
    """A PDF of pages of sixty lines, in the letters of Latin-1."""
    lines = [line[:200].translate({40: None, 41: None, 92: None}) for line in text.splitlines()]
    pages = [lines[first : first + 60] for first in range(0, len(lines), 60)]
    numbers = " ".join(f"{4 + 2 * page} 0 R" for page in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{numbers}]>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for page, own in enumerate(pages):
        shown = "".join(f"({line})Tj T*\n" for line in own).encode("latin-1", "replace")
        stream = zlib.compress(b"BT /F1 9 Tf 11 TL 40 800 Td\n" + shown + b"ET")
        place = f"/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 3 0 R>>>>/Contents {5 + 2 * page} 0 R"
        head = f"<</Length {len(stream)}/Filter/FlateDecode>>stream\n".encode()
        objects += [f"<</Type/Page{place}>>".encode(), head + stream + b"\nendstream"]
    content = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size, start = len(objects) + 1, len(content)
    trailer = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF"
    )
    return bytes(content) + trailer.encode()


def pieces(folders: list[Path]) -> Iterator[str]:
    """Text of about the size of a document, from every readable text file in turn, and again in other words."""
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in (".txt", ".md", ".rst", ".py")]
    for variant in itertools.count():
        for path in files:
            lines: list[str] = []
            for line in path.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True):
                lines.append(varied(line, variant))
                if sum(map(len, lines)) > DOCUMENT_BYTES:
                    yield "".join(lines)
                    lines = []
            if lines:
                yield "".join(lines)


def varied(line: str, variant: int) -> str:
    """The line with a share of its words reversed, others in each variant, none in the first."""
    if not variant:
        return line
    words, step = line.split(" "), 7 + variant % 8
    words[variant % step :: step] = [word[::-1] for word in words[variant % step :: step]]
    return " ".join(words)


def hide(project: Path, chosen: Callable[[list[Path]], list[Path]]) -> None:
    """Hold some documents back."""
    (project / "held_back").mkdir(exist_ok=True)
    for path in chosen(sorted((project / "texts").iterdir())):
        path.rename(project / "held_back" / path.name)


def show(project: Path) -> None:
    """Put them among the others."""
    for path in (project / "held_back").iterdir():
        path.rename(project / "texts" / path.name)


def run_all(project: Path, ranks: str, stages: Iterable[str] = STAGES, workers: int = 1) -> dict[str, dict[str, float]]:
    """Run the stages in order; what each took."""
    took = {}
    for stage in stages:
        done = subprocess.run(
            [sys.executable, "-c", STAGE, stage, ranks, str(ROOT / "params.yaml"), str(workers)],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr)
        took[stage] = json.loads(done.stdout.splitlines()[-1])
    return took


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def git(*arguments: str) -> str:
    """What git says."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
