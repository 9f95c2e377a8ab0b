"""Goes in: MLFLOW_TRACKING_URI, if it is set. Comes out: a client that answers or fails in seconds, never in minutes.

Without the variable MLflow's own default holds, ./mlflow.db with files in ./mlruns, so that `mlflow ui` and
`mlflow models serve` find the same registry when they are run in the project's folder.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import DependencyError

EXPERIMENT = "homegrown"
DEFAULT_URI = "sqlite:///mlflow.db"

# MLflow's defaults try for four minutes. No pickle is ever loaded, and nothing is reported to anyone.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def tracking_uri() -> str:
    """Where MLflow keeps runs and models."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def pages_address() -> str:
    """Where a browser finds MLflow: the tracking server, or the one that `homegrown ui` starts unless 5000 is taken."""
    uri = tracking_uri()
    return _without_credentials(uri).rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"


def connect() -> Any:
    """An MlflowClient for `tracking_uri`; DependencyError if nobody answers there."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow

    if not isinstance(warnings.showwarning, _WithoutBadAdvice):
        warnings.showwarning = _WithoutBadAdvice(warnings.showwarning)
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking_uri())
    client = mlflow.MlflowClient()
    with mlflow_errors():
        client.search_experiments(max_results=1)
    return client


class mlflow_errors:  # noqa: N801 - used as a block, like contextlib's own
    """Within the block, a tracking server or database that does not answer is a DependencyError."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or kind is None:
            return
        module = kind.__module__.split(".")[0]
        if module in ("mlflow", "requests", "urllib3", "sqlalchemy", "sqlite3") or isinstance(error, ConnectionError):
            # The libraries quote the address as it was given, password and all.
            reason = re.sub(r"//[^/@\s]+@", "//", str(error).splitlines()[0])[:200] if str(error) else kind.__name__
            raise DependencyError(
                f"MLflow at {_without_credentials(tracking_uri())} does not answer ({reason}); "
                "start it or correct MLFLOW_TRACKING_URI, then run again: what was recorded waits in .homegrown/spool"
            ) from error


@dataclass(frozen=True)
class _WithoutBadAdvice:
    """MLflow urges, past every filter, to put type hints on `predict`; heeding it would discard the signature."""

    show: Callable[..., None]

    def __call__(self, message: Warning | str, *arguments: Any, **options: Any) -> None:
        if "type hint" not in str(message):
            self.show(message, *arguments, **options)


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.password or parts.username:
        return parts._replace(netloc=(parts.hostname or "") + (f":{parts.port}" if parts.port else "")).geturl()
    return uri


@cache
def _experiment_id(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def experiment_id(client: Any) -> str:
    """The experiment that every run belongs to: MLFLOW_EXPERIMENT_NAME, or homegrown."""
    return _experiment_id(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
