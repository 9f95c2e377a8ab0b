"""Goes in: plain text. Comes out: how fast our cleaning and datatrove's are on it, and whether they drop the same.

    python benchmarks/cleaning.py FOLDER... --datatrove PYTHON [--rounds 5] [--megabytes 4] [--write FILE]

FOLDERs hold .txt, .rst or .md files; they are cut into documents of about 3,000 characters at line ends, and every
hundredth document is repeated with a word changed, so that there is something to find. PYTHON is the interpreter of an
environment with `pip install 'homegrown[bench]'`; it may be this one. Rounds alternate between the two, each in a fresh
process; figures are medians of CPU seconds, so that a busy machine counts less.

Both sides do the same: Gopher's quality rules, Gopher's repetition rules, FineWeb's rules, MinHash signatures of 14 × 8
over 5-grams, and clusters. datatrove runs twice: with its own word splitter (spaCy), and with one on white space like
ours, which is faster and leaves only the differences of the rules. Its clusters are not timed: they are files of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHARACTERS = 3000
OURS, SPACY, WHITE_SPACE = "homegrown", "datatrove, spaCy words", "datatrove, white-space words"


def documents(folders: Sequence[Path], megabytes: float) -> list[str]:
    """Documents cut from the folders' files, in the order of their names, a share of each folder."""
    found: list[str] = []
    for folder in folders:
        size = 0
        files = sorted(p for p in folder.rglob("*") if p.suffix in (".txt", ".rst", ".md") and p.name != "SOURCE.txt")
        for file in files:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            piece = ""
            for line in [*lines, None]:
                if line is None or len(piece) + len(line) > CHARACTERS:
                    if piece.strip():
                        found.append(piece.strip("\n"))
                        size += len(piece.encode())
                    piece = ""
                piece += line or ""
            if size > megabytes * 1e6 / len(folders):
                break
    copies = [text.replace(" the ", " that ", 1) for text in found[::100]]
    return found + copies


def ours(texts: list[str]) -> dict[str, Any]:
    """What our rules say of each text, and the CPU seconds it took."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from model.freed_memory import keep_freed_memory
    from pipeline.cleaning import near_duplicates, quality
    from pipeline.cleaning.words import Batch

    names = [name for name in quality.NAMES if not name.startswith("c4")]
    keep_freed_memory()  # as the stage does
    quality.reasons_to_drop(Batch(["warm up"]), names)
    started = time.process_time()
    reasons: dict[int, str] = {}
    bands = []
    batch: list[str] = []
    done = size = 0
    for place, text in enumerate(texts):
        batch.append(text)
        size += len(text)
        if size > 1 << 19 or place == len(texts) - 1:
            laid_out = Batch(batch)
            found = quality.reasons_to_drop(laid_out, names)
            reasons |= {done + inner: reason.split(":")[0] for inner, reason in found.items()}
            bands.append(near_duplicates.bands(laid_out))
            done += len(batch)
            batch, size = [], 0
    firsts = near_duplicates.clusters(np.concatenate(bands).T).tolist()
    seconds = time.process_time() - started
    pairs = [[first, place] for place, first in enumerate(firsts) if first != place]
    return {"seconds": seconds, "reasons": reasons, "pairs": pairs}


def datatrove(texts: list[str], white_space: bool) -> dict[str, Any]:
    """The same with datatrove's filters and its MinHash signatures; pairs by equal bands, found here."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils import text as text_module
    from datatrove.utils import word_tokenizers

    class WhiteSpace(word_tokenizers.WordTokenizer):  # type: ignore[misc]
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    filters = [GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()]
    with tempfile.TemporaryDirectory() as folder:
        signature = MinhashDedupSignature(folder)
        if white_space:
            splitter = WhiteSpace()
            signature.word_tokenizer = splitter
            for module in list(sys.modules.values()):
                if getattr(module, "__name__", "").startswith("datatrove") and hasattr(module, "split_into_words"):
                    module.split_into_words = lambda text, language="": text.split()
        del text_module
        for one in filters:
            one.filter(Document(text="Warm up the tokenizer, please.", id="0"))
        signature.get_shingles("warm up the tokenizer now please")
        started = time.process_time()
        reasons: dict[int, str] = {}
        bands: dict[tuple[int, ...], int] = {}
        pairs = []
        for place, text in enumerate(texts):
            # One answer for each filter, as ours gives one for each rule: none is spared by an earlier one.
            answers = [one.filter(Document(text=text, id=str(place))) for one in filters]
            refusals = [answer[1] for answer in answers if answer is not True]
            if refusals:
                reasons[place] = refusals[0]
            shingles = signature.get_shingles(text)
            if len(shingles):
                for number, band in enumerate(signature.get_signature(shingles)):
                    first = bands.setdefault((number, *band), place)
                    if first != place:
                        pairs.append([first, place])
        seconds = time.process_time() - started
    return {"seconds": seconds, "reasons": reasons, "pairs": pairs}


def second_of(pairs: list[list[int]]) -> set[int]:
    """The documents that a later step would drop as near-duplicates of an earlier one."""
    return {pair[1] for pair in pairs}


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How the dropped sets of two sides differ, and by which rules."""
    ours_dropped, theirs = set(one["reasons"]), set(other["reasons"])
    return {
        "dropped_by_both": len(ours_dropped & theirs),
        "dropped_by_us_only": tally([one["reasons"][key] for key in ours_dropped - theirs]),
        "dropped_by_datatrove_only": tally([other["reasons"][key] for key in theirs - ours_dropped]),
        "near_duplicates_of_both": len(second_of(one["pairs"]) & second_of(other["pairs"])),
        "near_duplicates_of_us_only": len(second_of(one["pairs"]) - second_of(other["pairs"])),
        "near_duplicates_of_datatrove_only": len(second_of(other["pairs"]) - second_of(one["pairs"])),
    }


def tally(reasons: list[str]) -> dict[str, int]:
    """How often each reason stands in a list."""
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def main() -> None:
    """Run the sides in turn and print a table; with --write, record the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--datatrove", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--side", choices=[OURS, SPACY, WHITE_SPACE], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    texts = documents(arguments.folders, arguments.megabytes)
    if arguments.side:
        side = ours(texts) if arguments.side == OURS else datatrove(texts, arguments.side == WHITE_SPACE)
        print(json.dumps(side))
        return
    n_bytes = sum(len(text.encode()) for text in texts)
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], WHITE_SPACE: [], SPACY: []}
    for number in range(arguments.rounds):
        for side, done in runs.items():
            python = sys.executable if side == OURS else arguments.datatrove
            command = [python, __file__, *map(str, arguments.folders), "--megabytes", str(arguments.megabytes)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            finished = subprocess.run(
                [*command, "--side", side], stdout=subprocess.PIPE, text=True, check=True, env=environment
            )
            done.append(json.loads(finished.stdout.splitlines()[-1]))
            print(
                f"round {number + 1}: {side}: {n_bytes / 1e6 / done[-1]['seconds']:.2f} MB per CPU second", flush=True
            )
    median = {side: statistics.median(run["seconds"] for run in done) for side, done in runs.items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    result = {
        "documents": len(texts),
        "bytes": n_bytes,
        "rounds": arguments.rounds,
        "cpu_seconds": {side: [round(run["seconds"], 3) for run in done] for side, done in runs.items()},
        "megabytes_per_cpu_second": {side: round(n_bytes / 1e6 / seconds, 3) for side, seconds in median.items()},
        "times_datatrove": {side: round(median[side] / median[OURS], 1) for side in (SPACY, WHITE_SPACE)},
        "compared": {side: compare(runs[OURS][0], runs[side][0]) for side in (WHITE_SPACE, SPACY)},
        "dropped_by_us": tally(list(runs[OURS][0]["reasons"].values())),
        "hardware": processor(),
        "commit": commit.stdout.strip(),
    }
    print(json.dumps(result, indent=2))
    if arguments.write:
        arguments.write.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name and the number of cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
