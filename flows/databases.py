"""python -m flows.databases FOLDER. Goes in: a fresh clone. Comes out: MLflow's and Prefect's databases with tables.

Both walk through every change of their tables since their first release, Prefect for twelve seconds of a processor. The
first run would do it too; what is set up once for a clone need not be waited for in a run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from flows import servers
from flows.project import STATE
from pipeline.errors import DependencyError
from pipeline.tracking.connection import connect


def prepare(root: Path) -> None:
    """Bring the tables of both up to date. What cannot be done here is said, and tried again by the first run."""
    (root / STATE / "prefect").mkdir(parents=True, exist_ok=True)
    prefect = subprocess.Popen(
        [sys.executable, "-Pm", "prefect", "server", "database", "upgrade", "--yes"],
        cwd=root,
        env={**os.environ, **servers.prefect_environment(root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with contextlib.chdir(root):
            connect()
    except DependencyError as error:
        print(f"homegrown: {error}", file=sys.stderr)
    said, _ = prefect.communicate()
    if prefect.returncode:
        reason = said.strip().rpartition("\n")[2]
        print(f"homegrown: Prefect's tables are not made yet: {reason}", file=sys.stderr)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]).resolve())
