"""Goes in: targets. Comes out: what has to be done for them, looked up by DVC in a process of its own.

DVC takes almost two seconds to look at every file, and Prefect as long to load: they do it side by side.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import dvc_shortcuts, versioning
from pipeline.errors import BY_EXIT_CODE, HomegrownError, machine_errors

CODE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Survey:
    """The project as DVC finds it before a run."""

    mended: list[str]
    """A line for each thing that a killed DVC had left behind."""
    plan: list[versioning.Stage]
    """The stages of the targets and of all they need, in the order of `dvc repro`."""
    lock_order: list[str]
    """The stages of dvc.lock in the file's order."""


@contextlib.contextmanager
def surveying(root: Path, targets: Sequence[str], force: Sequence[str]) -> Iterator[Callable[[], Survey]]:
    """Begin to look; the function waits for what was found, and raises what `versioning.survey` does."""
    process = subprocess.Popen(
        [sys.executable, "-Pm", "flows.surveyor", str(root), json.dumps([list(targets), list(force)])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(CODE), os.environ.get("PYTHONPATH"))))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for us to hear
    )

    def found() -> Survey:
        said, complaint = process.communicate()
        if process.returncode:
            raise RuntimeError(f"DVC could not be asked: {complaint.decode(errors='replace')}")
        answer = json.loads(said)
        if "exit_code" in answer:
            raise BY_EXIT_CODE[answer["exit_code"]](answer["message"])
        plan = [versioning.Stage(**{**stage, "upstreams": tuple(stage["upstreams"])}) for stage in answer["plan"]]
        return Survey(answer["mended"], plan, answer["lock_order"])

    try:
        yield found
    finally:
        process.kill()
        process.communicate()


def _main(root: Path, targets: Sequence[str], force: Sequence[str]) -> None:
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed is no answer
    dvc_shortcuts.take()
    try:
        with machine_errors("dvc"):
            mended = versioning.repair(root)
            plan = versioning.survey(root, targets, force)
            found = asdict(Survey(mended, plan, versioning.lock_order(root)))
    except HomegrownError as error:
        found = {"exit_code": error.exit_code, "message": str(error)}
    with answer:
        json.dump(found, answer)
    os._exit(0)  # taking a thousand modules down one by one takes a while


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *json.loads(sys.argv[2]))
