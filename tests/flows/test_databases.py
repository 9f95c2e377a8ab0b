"""What the set-up makes once: the tables of both databases, as their servers would have made them."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

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
        (".homegrown/prefect/prefect.db", "prefect.server.database", "_migrations"),
        ("mlflow.db", "mlflow.store", "db_migrations"),
    ],
)
def test_each_database_has_the_tables_of_its_program(databases: Path, file: str, package: str, scripts: str) -> None:
    """The program's migrations have been walked through to the last one."""
    [where] = importlib.import_module(package).__path__
    folder = Path(where) / scripts / "versions"
    latest = ScriptDirectory(str(folder.parent), version_locations=[str(folder / "sqlite"), str(folder)])
    assert revision(databases / file) == latest.get_current_head()


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
