"""Goes in: a DVC command line. Comes out: what DVC does with it, but no question is asked again and again.

    python -P pipeline/dvc_shortcuts.py repro --single-item ingest

DVC 3.67 lists a folder and looks up each of its files ten times to run one stage that depends on it, and reads
params.yaml anew for every stage. Here it lists the folder twice, before the stage's command and after it, and reads the
params once.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


def _read_params_once() -> None:
    """Let DVC read params.yaml once in this process, not for every stage anew: a quarter of the time of a survey."""
    from dvc.dependency import param

    param.load_path = cache(param.load_path)


def _hash_dependencies_once() -> None:
    """Let DVC in this process look once at what a stage depends on, and once more when its command has run.

    Of a folder of 65,000 files each look takes more than a second.
    """
    from dvc.dependency.base import Dependency
    from dvc.stage import run

    look, run_command = Dependency._build, run.cmd_run
    seen: dict[tuple[Any, ...], Any] = {}

    def look_once(self: Any, odb: Any, path: str, fs: Any, name: str, *others: Any, **options: Any) -> Any:
        if fs.protocol != "local":
            return look(self, odb, path, fs, name, *others, **options)
        key = (path, name, options.get("dry_run"))
        if key not in seen:
            seen[key] = look(self, odb, path, fs, name, *others, **options)
        return seen[key]

    def run_and_forget(*given: Any, **options: Any) -> None:
        try:
            run_command(*given, **options)
        finally:
            seen.clear()

    Dependency._build = look_once
    run.cmd_run = run_and_forget


def take() -> None:
    """Take both shortcuts, for as long as this process lives."""
    _read_params_once()
    _hash_dependencies_once()


def main() -> int:
    """Run DVC's own command line."""
    from dvc.cli import main as dvc

    take()
    status: int = dvc(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
