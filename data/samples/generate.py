"""Goes in: the wordings beside this file. Comes out: a folder of JSON lines for each data set, always the same bytes.

    python data/samples/generate.py            write the files
    python data/samples/generate.py --check    exit 1 and name the files that are not what this writes

Nothing here was taken from anywhere: templates and fillers were written for this project. The three splits share
neither, which every run asserts, so that a test score tells of the task and not of the wording. Most fillers are pairs
of words; the pairs are apart, the words are not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # so that `making` is found from wherever this is started

from making.instructions import instructions  # noqa: E402
from making.promises import check_rows, check_wordings  # noqa: E402
from making.questions import questions  # noqa: E402
from making.sentiment import sentiment  # noqa: E402
from making.spam import messages  # noqa: E402
from making.summaries import summaries  # noqa: E402
from making.templates import SPLITS, Row, Wordings  # noqa: E402
from making.translations import translations  # noqa: E402

# How many rows train, validation and test have. The fine-tunings of params.yaml take their time from these.
ROWS = {
    "spam": (4000, 400, 400),
    "sentiment": (1500, 200, 400),
    "instructions": (4600, 200, 200),
    "translations": (550, 100, 200),
    "summaries": (400, 100, 200),
    "questions": (450, 100, 200),
}


def read_wordings(folder: Path = HERE / "wordings") -> dict[str, Wordings]:
    """The tables by file name: one for each data set, and the fillers that some share."""
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))}


def generate(wordings: dict[str, Wordings] | None = None) -> dict[str, list[Row]]:
    """The rows of every file by its path below data/samples/. ValueError if two splits share what they must not."""
    wordings = wordings or read_wordings()
    check_wordings(wordings)
    fillers = wordings["fillers"]
    makers: dict[str, Callable[[str, int], Iterator[Row]]] = {
        "spam": lambda split, count: messages(wordings["spam"], split, count),
        "sentiment": lambda split, count: sentiment(wordings["sentiment"], split, count),
        "instructions": lambda split, count: instructions(wordings["instructions"], fillers, split, count),
        "translations": lambda split, count: translations(wordings["translations"], split, count),
        "summaries": lambda split, count: summaries(wordings["summaries"], fillers, split, count),
        "questions": lambda split, count: questions(wordings["questions"], fillers, split, count),
    }
    files = {
        f"{dataset}/{split}.jsonl": list(make(split, count))
        for dataset, make in makers.items()
        for split, count in zip(SPLITS, ROWS[dataset], strict=True)
    }
    check_rows(files, wordings)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the files with what would be written")
    check = parser.parse_args().check
    stale = []
    for path, rows in generate().items():
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        file = HERE / path
        if not check:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            print(f"{path}: {len(rows):,} rows, {len(content):,} bytes")
        elif not file.exists() or file.read_bytes() != content:
            stale.append(path)
    if stale:
        print(f"not what generate.py writes: {', '.join(stale)}; run python data/samples/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
