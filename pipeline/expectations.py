"""Goes in: rows of statistics and what is expected of them. Comes out: verdicts, and Data Docs to read in a browser.

The only module that knows Great Expectations. It never sees a text: rows hold lengths, shares and labels, so nothing
private can reach a report. Rows wait in a database on the disk, where Great Expectations counts them, so memory does
not grow with them. It passes an empty table and an empty suite; both are refused here.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data_docs import Line, make_self_contained
from pipeline.errors import DataError

# Set before the first import: it reads them once. No usage statistics leave this machine.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Its progress bars are one line per metric when nobody watches.
os.environ.setdefault("TQDM_DISABLE", "1")


@dataclass(frozen=True)
class Expectation:
    """One thing expected of a table: an expectation class of Great Expectations by name, and its arguments."""

    name: str
    arguments: Mapping[str, Any]
    meaning: str
    """What it means when this fails, in words, for the person who must act on it."""


@dataclass(frozen=True)
class Suite:
    """A table, and what is expected of it."""

    name: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]
    """A value for each column; they are taken one by one and never held together."""
    expectations: Sequence[Expectation]
    query: str = "SELECT * FROM rows"
    """What makes of `rows` the table that is checked, where a value depends on other rows than its own."""


@dataclass(frozen=True)
class Verdict:
    """How one expectation fared. `unexpected` counts the rows that broke it, where it is about rows."""

    suite: str
    expectation: str
    meaning: str
    passed: bool
    unexpected: int
    observed: str


@dataclass(frozen=True)
class Checked:
    """A suite's rows, and the verdicts on them in its order."""

    suite: str
    rows: int
    verdicts: list[Verdict]


def check(suites: Sequence[Suite], data_docs: Path) -> list[Checked]:
    """Validate every suite and write Data Docs to `data_docs`/index.html; DataError if there is nothing to check."""
    database = data_docs.with_name(f"{data_docs.name}.sqlite")
    database.parent.mkdir(parents=True, exist_ok=True)
    database.unlink(missing_ok=True)
    try:
        counts = [_fill(database, suite) for suite in suites]
        return _check(suites, counts, database, data_docs)
    finally:
        database.unlink(missing_ok=True)


def _fill(database: Path, suite: Suite) -> int:
    """Make the table of a suite; how many rows it has."""
    if not suite.expectations:
        raise DataError(f"validate: the suite {suite.name!r} expects nothing, so passing it would mean nothing")
    places = ", ".join("?" * len(suite.columns))
    try:
        # Its database is thrown away after a crash, so nothing need be safe from one.
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"CREATE TABLE rows ({', '.join(suite.columns)})")
            connection.executemany(f"INSERT INTO rows VALUES ({places})", suite.rows)
            connection.execute(f"CREATE TABLE {suite.name} AS {suite.query}")
            connection.execute("DROP TABLE rows")
            [[count]] = connection.execute(f"SELECT COUNT(*) FROM {suite.name}")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(database)) from error
        raise
    if not count:
        raise DataError(f"validate: {suite.name}: the table has no rows; there is nothing to train on")
    return int(count)


def _check(suites: Sequence[Suite], counts: Sequence[int], database: Path, data_docs: Path) -> list[Checked]:
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    shutil.rmtree(data_docs, ignore_errors=True)
    data_docs.mkdir(parents=True)
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        "data_docs",
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(data_docs.resolve()),
            },
        },
    )
    source = context.data_sources.add_sqlite("pipeline", connection_string=f"sqlite:///{database}")
    definitions = []
    for suite in suites:
        batch = source.add_table_asset(suite.name, table_name=suite.name).add_batch_definition_whole_table("all rows")
        built = gx.ExpectationSuite(suite.name)
        for expectation in suite.expectations:
            kind = getattr(gx.expectations, expectation.name)
            built.add_expectation(kind(**expectation.arguments, notes=expectation.meaning))
        definition = gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(built))
        definitions.append((context.validation_definitions.add(definition), suite))
    checked: list[Checked] = []
    for (definition, suite), count in zip(definitions, counts, strict=True):
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name=suite.name,
                validation_definitions=[definition],
                result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
            )
        )
        result = checkpoint.run()
        checked.append(Checked(suite.name, count, _verdicts(suite, next(iter(result.run_results.values())))))
    context.build_data_docs()
    make_self_contained(data_docs, [_index_line(each) for each in checked])
    return checked


def _index_line(checked: Checked) -> Line:
    held = sum(verdict.passed for verdict in checked.verdicts)
    return Line(checked.suite, checked.rows, held, len(checked.verdicts))


def _verdicts(suite: Suite, result: Any) -> list[Verdict]:
    """One verdict per expectation, in the suite's order; DataError if any of them was not evaluated."""
    if len(result.results) != len(suite.expectations):
        raise DataError(f"validate: {suite.name}: {len(result.results)} of {len(suite.expectations)} checks were made")
    by_meaning = {one.expectation_config.notes: one for one in result.results}
    verdicts = []
    for expectation in suite.expectations:
        one = by_meaning[expectation.meaning]
        if problem := _problem(one.exception_info or {}):
            raise DataError(f"validate: {suite.name}: {expectation.name} could not be checked: {problem}")
        found = one.result or {}
        verdicts.append(
            Verdict(
                suite=suite.name,
                expectation=expectation.name,
                meaning=expectation.meaning,
                passed=bool(one.success),
                unexpected=int(found.get("unexpected_count", 0)),
                observed=str(found.get("observed_value", "")),
            )
        )
    return verdicts


def _problem(info: Mapping[str, Any]) -> str:
    """What kept an expectation from being evaluated; "" if nothing did. It is told once, or once per metric."""
    told = [info, *(part for part in info.values() if isinstance(part, Mapping))]
    return next((str(part["exception_message"]) for part in told if part.get("raised_exception")), "")
