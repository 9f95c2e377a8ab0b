"""What the set-up makes once: the tables of both databases, as their servers would have made them."""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import databases as set_up
from flows.project import STATE

pytestmark = pytest.mark.slow  # the tables are made, which takes seconds


def revision(database: Path) -> str:
    """The latest change of a database's tables."""
    with sqlite3.connect(database) as connection:
        [[number]] = connection.execute("select version_num from alembic_version").fetchall()
    return str(number)


@pytest.mark.parametrize(
    ("file", "package", "scripts"),
    [
        (".homegrown/prefect/prefect.db", "prefect", "server/database/_migrations"),
        ("mlflow.db", "mlflow", "store/db_migrations"),
    ],
)
def test_each_database_has_the_tables_of_its_program(databases: Path, file: str, package: str, scripts: str) -> None:
    """The program's migrations have been walked through to the last one."""
    found = importlib.util.find_spec(package)
    assert found and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / scripts / "versions"
    # In a process of its own: the scripts load Prefect, which would settle here which server all tests talk to.
    ask = "import sys; from alembic.script import ScriptDirectory as S; "
    ask += "print(S(sys.argv[1], version_locations=sys.argv[2:]).get_current_head())"
    command = [sys.executable, "-Pc", ask, str(folder.parent), str(folder / "sqlite"), str(folder)]
    latest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert revision(databases / file) == latest


def test_what_is_there_is_left_and_a_database_out_of_reach_is_named(
    tmp_path: Path,
    lend_prefect_tables: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second time changes nothing; an MLflow that does not answer is one line, and the set-up goes on."""
    lend_prefect_tables(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = revision(tmp_path / STATE / "prefect" / "prefect.db")
    set_up.prepare(tmp_path)
    assert revision(tmp_path / STATE / "prefect" / "prefect.db") == before
    said = capsys.readouterr().err
    assert said.startswith("homegrown: MLflow at http://127.0.0.1:9 does not answer")
    assert len(said.splitlines()) == 1
