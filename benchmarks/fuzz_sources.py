"""Goes in: a count. Comes out: benchmarks/results/fuzz-sources.json, what became of so many mutated files a family.

    python -m benchmarks.fuzz_sources --count 10000 --family parquet --family zip

Each mutated file lies beside a good one. It counts as a failure when anything but a refusal is raised, when one file
takes more than 10 s, when the good file's record is lost, when a line of JSON that was not touched is lost, or when a
format with a checksum over everything gives a text that was not in it; the program then ends with 1. Mutation N of a
family is always the same one.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record_run import RESULTS, git, hardware
from pipeline.cleaning.rejections import Rejection
from pipeline.documents import Document
from pipeline.sources.catalogue import Entry
from pipeline.sources.corpus import Corpus
from pipeline.sources.isolation import Isolation

LIMIT_SECONDS = 10.0
TEXTS = [f"Sentence {number}: the cat's café is “open”, 🌍 and the {number * 7919} dogs wait." for number in range(12)]
# What these hold is under checksums from end to end: whatever comes out must be what went in.
CHECKED = ("gz", "bz2", "xz", "zst", "tar.gz")


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS, "n": list(range(12))}), file, write_page_checksum=True, row_group_size=5)
    return file.getvalue()


def _arrow() -> bytes:
    import pyarrow as pa

    file = io.BytesIO()
    table = pa.table({"text": TEXTS, "n": list(range(12))})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return file.getvalue()


def _zstd() -> bytes:
    from backports import zstd

    return bytes(zstd.compress(_jsonl(), options={zstd.CompressionParameter.checksum_flag: 1}))


def _jsonl() -> bytes:
    return "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)).encode()


def _csv() -> bytes:
    rows = [f'{n},"{text}\nand more ""quoted"""\r\n' for n, text in enumerate(TEXTS)]
    return ("n,text\r\n" + "".join(rows)).encode()


def _html() -> bytes:
    body = "".join(f"<div><h2>{n}</h2><p>{text}</p><ul><li>a<li>b</ul></div>" for n, text in enumerate(TEXTS))
    return f"<!doctype html><html><head><title>t</title></head><body><main>{body}</main></body></html>".encode()


def _warc() -> bytes:
    whole = b""
    for n, text in enumerate(TEXTS):
        page = f"<html><body><p>{text}</p></body></html>".encode()
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{n}>\r\nWARC-Target-URI: http://e.org/{n}\r\n"
        head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        whole += head.encode() + http + b"\r\n\r\n"
    return whole


def _docx() -> bytes:
    import docx

    document, file = docx.Document(), io.BytesIO()
    for text in TEXTS:
        document.add_paragraph(text)
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    document.save(file)
    return file.getvalue()


def _pdf() -> bytes:
    """Two pages, written by hand: a PDF is numbered objects, a table of where they stand, and a trailer."""
    pages = [" ".join(TEXTS[n : n + 6]).encode("ascii", "ignore").decode() for n in (0, 6)]
    streams = [f"BT /F1 9 Tf 40 700 Td ({page.replace('(', '')}) Tj ET".encode() for page in pages]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>",
        *(
            f"<< /Type /Page /Parent 2 0 R /Contents {n} 0 R /Resources << /Font << /F1 7 0 R >> >> "
            "/MediaBox [0 0 600 800] >>".encode()
            for n in (5, 6)
        ),
        *(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream) for stream in streams),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    whole, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(whole))
        whole += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer << /Size 8 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(whole)
    return whole + b"xref\n0 8\n0000000000 65535 f \n" + table + trailer


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for n, text in enumerate(TEXTS):
            member = tarfile.TarInfo(f"folder/{n}.txt")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, text in enumerate(TEXTS):
            archive.writestr(f"folder/{n}.txt", text)
    return file.getvalue()


def seeds() -> dict[str, tuple[str, bytes]]:
    """A good file of each family: its name and its content."""
    jsonl = _jsonl()
    return {
        "text": ("a.txt", "\n".join(TEXTS).encode()),
        "html": ("a.html", _html()),
        "pdf": ("a.pdf", _pdf()),
        "docx": ("a.docx", _docx()),
        "jsonl": ("a.jsonl", jsonl),
        "json": ("a.json", json.dumps([{"text": text} for text in TEXTS], indent=1).encode()),
        "csv": ("a.csv", _csv()),
        "tsv": ("a.tsv", ("n\ttext\r\n" + "".join(f"{n}\t{text}\r\n" for n, text in enumerate(TEXTS))).encode()),
        "parquet": ("a.parquet", _parquet()),
        "arrow": ("a.arrow", _arrow()),
        "warc": ("a.warc", _warc()),
        "gz": ("a.jsonl.gz", gzip.compress(jsonl, mtime=0)),
        "zst": ("a.jsonl.zst", _zstd()),
        "bz2": ("a.jsonl.bz2", bz2.compress(jsonl)),
        "xz": ("a.jsonl.xz", lzma.compress(jsonl)),
        "tar": ("a.tar", _tar()),
        "tar.gz": ("a.tar.gz", gzip.compress(_tar(), mtime=0)),
        "zip": ("a.zip", _zip()),
    }


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content after one to four small accidents."""
    whole = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(whole) + 1)
        length = chance.choice((1, 2, 4, 8, 64, 512))
        match chance.randrange(8):
            case 0 | 1 if at < len(whole):
                whole[at] ^= 1 << chance.randrange(8)
            case 2:
                del whole[at:]
            case 3:
                del whole[at : at + length]
            case 4:
                whole[at:at] = chance.randbytes(length)
            case 5:
                whole[at:at] = whole[at : at + length]
            case 6:
                whole[at : at + length] = bytes(min(length, len(whole) - at))
            case _:
                nasty = (
                    b"\xff" * 4,
                    b"\x7f\xff\xff\xff",
                    b"\0",
                    b'"',
                    b"\n",
                    b"\xed\xa0\x80",
                    b"[" * 3000,
                    b"1e999999",
                )
                piece = chance.choice(nasty)
                whole[at : at + len(piece)] = piece
    return bytes(whole)


@dataclass
class Outcome:
    """What became of the mutated files of one family."""

    family: str
    files: int = 0
    unharmed: int = 0
    refused: int = 0
    slowest_seconds: float = 0.0
    wall_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def fuzz(family: str, count: int, folder: Path, isolation: Isolation, first: int = 0) -> Outcome:
    """Read `count` mutated files of a family, each beside a good one."""
    name, content = seeds()[family]
    (folder / "good.txt").write_text("good", encoding="utf-8")
    entry = Entry(path=str(folder), kind="documents", licence="CC0-1.0", origin="fuzz")
    outcome = Outcome(family)
    began = time.perf_counter()
    for number in range(first, first + count):
        broken = mutated(content, random.Random(f"{family} {number}"))
        (folder / name).write_bytes(broken)
        start = time.perf_counter()
        try:
            found = list(Corpus(isolation).read("fuzz", entry, key="fuzz"))
        except Exception as error:
            outcome.failures.append(f"{family} {number}: {type(error).__name__}: {error}")
            continue
        finally:
            outcome.files += 1
            seconds = time.perf_counter() - start
            outcome.slowest_seconds = max(outcome.slowest_seconds, seconds)
        texts = [record.text for record in found if isinstance(record, Document) and record.name != "good.txt"]
        refusals = [record.reason for record in found if isinstance(record, Rejection)]
        outcome.reasons.update({reason.split(":")[0] for reason in refusals})
        outcome.refused += bool(refusals)
        outcome.unharmed += not refusals
        if seconds > LIMIT_SECONDS:
            outcome.failures.append(f"{family} {number}: took {seconds:.1f} s")
        if len(found) - len(texts) - len(refusals) != 1:
            outcome.failures.append(f"{family} {number}: the good file's record is lost")
        nothing = not broken.strip() or (family in ("csv", "tsv") and b"\n" not in broken.rstrip())  # a bare header
        if not texts and not refusals and not nothing:
            outcome.failures.append(f"{family} {number}: gone without a reason")
        if family == "jsonl" and (lost := _whole_lines(broken) - set(texts)):
            outcome.failures.append(f"{family} {number}: {len(lost)} good lines lost")
        if family in CHECKED and texts != TEXTS * (len(texts) // len(TEXTS)):  # a file twice is two streams, and legal
            outcome.failures.append(f"{family} {number}: altered texts were taken")
    (folder / name).unlink(missing_ok=True)
    outcome.wall_seconds = time.perf_counter() - began
    return outcome


def _whole_lines(broken: bytes) -> set[str]:
    """The texts of those lines that the mutation left alone."""
    left = set(broken.split(b"\n"))
    return {text for text, line in zip(TEXTS, _jsonl().split(b"\n"), strict=False) if line in left}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--family", action="append", choices=list(seeds()))
    chosen = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, Isolation() as isolation:
        for family in chosen.family or list(seeds()):
            outcome = fuzz(family, chosen.count, Path(folder), isolation)
            found[family] = {
                "files": outcome.files,
                "refused": outcome.refused,
                "read": outcome.unharmed,
                "slowest_seconds": round(outcome.slowest_seconds, 2),
                "wall_seconds": round(outcome.wall_seconds),
                "failures": outcome.failures,
            }
            print(family, json.dumps(found[family]), flush=True)
    if not chosen.family:
        record = {"commit": git("rev-parse", "HEAD"), "hardware": hardware(), "families": found}
        (RESULTS / "fuzz-sources.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(any(outcome["failures"] for outcome in found.values()))


if __name__ == "__main__":
    sys.exit(main())
