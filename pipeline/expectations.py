"""Goes in: tables of statistics and what is expected of them. Comes out: verdicts, and Data Docs to read in a browser.

The only module that knows Great Expectations. It never sees a text: tables hold lengths, shares and labels, so nothing
private can reach a report. Great Expectations passes an empty table and an empty suite; both are refused here.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
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
    """A table, as columns of equal length, and what is expected of it."""

    name: str
    columns: Mapping[str, Sequence[Any]]
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class Verdict:
    """How one expectation fared. `unexpected` counts the rows that broke it, where it is about rows."""

    suite: str
    expectation: str
    meaning: str
    passed: bool
    unexpected: int
    observed: str


def check(suites: Sequence[Suite], data_docs: Path) -> list[Verdict]:
    """Validate every suite and write Data Docs to `data_docs`/index.html; DataError if there is nothing to check."""
    for suite in suites:
        if not suite.expectations:
            raise DataError(f"validate: the suite {suite.name!r} expects nothing, so passing it would mean nothing")
        if not len(next(iter(suite.columns.values()), ())):
            raise DataError(f"validate: {suite.name}: the table has no rows; there is nothing to train on")
    import great_expectations as gx
    import pandas as pd

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
    source = context.data_sources.add_pandas("pipeline")
    definitions = []
    for suite in suites:
        batch = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("all rows")
        built = gx.ExpectationSuite(suite.name)
        for expectation in suite.expectations:
            kind = getattr(gx.expectations, expectation.name)
            built.add_expectation(kind(**expectation.arguments, notes=expectation.meaning))
        definition = gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(built))
        definitions.append((context.validation_definitions.add(definition), suite))
    verdicts: list[Verdict] = []
    for definition, suite in definitions:
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name=suite.name,
                validation_definitions=[definition],
                result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
            )
        )
        # Without a copy: Great Expectations makes enough of what has a row for each document.
        table = pd.DataFrame(dict(suite.columns), copy=False)
        result = checkpoint.run(batch_parameters={"dataframe": table})
        verdicts += _verdicts(suite, next(iter(result.run_results.values())))
    context.build_data_docs()
    make_self_contained(data_docs, [_index_line(suite, verdicts) for suite in suites])
    return verdicts


def _index_line(suite: Suite, verdicts: Sequence[Verdict]) -> Line:
    own = [verdict for verdict in verdicts if verdict.suite == suite.name]
    rows = len(next(iter(suite.columns.values())))
    return Line(suite.name, rows, sum(verdict.passed for verdict in own), len(own))


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
