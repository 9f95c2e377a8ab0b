"""Goes in: the spool's records. Comes out: runs in MLflow, each event delivered once, whatever was killed in between.

How far a record was delivered stands beside it (`.state`). A run is found again by its key, which it carries as a tag,
so a kill between creating it and noting so does not make a second one; and MLflow keeps equal metric points once.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import DependencyError
from pipeline.tracking import spool
from pipeline.tracking.connection import connect, experiment_id, mlflow_errors

KEY_TAG = "homegrown.key"
_POINTS_PER_CALL = 1000
_PARAM_CHARACTERS = 500
_BEGINNING_SECONDS = 10.0
_OUR_FAULT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST")


@dataclass
class _State:
    """How far a record was delivered."""

    run_id: str = ""
    offset: int = 0
    """Where the first line begins that was not delivered; a record's last, its end, always counts as such."""


def deliver_once(client: Any) -> int:
    """Deliver what every record holds by now; the number of records that are still open."""
    from mlflow.exceptions import MlflowException

    still_open = 0
    for path in spool.waiting():
        try:
            with mlflow_errors():
                delivered = _deliver_record(client, path)
        except DependencyError as error:
            cause = error.__cause__
            if not isinstance(cause, MlflowException) or cause.error_code not in _OUR_FAULT:
                raise
            # The run was deleted from MLflow, so it is made anew; a record that MLflow will never take is set aside.
            if path.with_suffix(".state").exists() and cause.error_code == "RESOURCE_DOES_NOT_EXIST":
                path.with_suffix(".state").unlink()
            else:
                path.rename(path.with_suffix(".refused"))
                print(f"{path.name} was refused and set aside: {cause}", file=sys.stderr)
            delivered = False
        still_open += not delivered
    return still_open


def deliver_until_done(poll_seconds: float = 1.0, linger_seconds: float = 3.0) -> None:
    """Deliver until every record is closed, then a little longer, so that the next stage finds delivery at work.

    If MLflow does not answer, the records stay where they are, and the next run delivers them.
    """
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < linger_seconds:
        if spool.waiting():
            deliver_once(connect())
            if spool.waiting():
                idle_since = time.monotonic()
        time.sleep(poll_seconds)


def _deliver_record(client: Any, path: Path) -> bool:
    """Deliver one record as far as it goes; True when it is complete and gone from the spool."""
    start = _beginning(path)
    if start is None:
        return _give_up(path)
    state_path = path.with_suffix(".state")
    state = _State(**json.loads(state_path.read_text())) if state_path.exists() else _State()
    if not state.run_id:
        state.run_id = _find_run(client, start["key"]) or _create_run(client, start)
        _log_params(client, state.run_id, start["params"])
        _save(state, state_path)
    at_work = _at_work(start)  # asked first: what a process wrote before it ended is then there to be read
    fresh, offset = _read_events(path, state.offset)
    points = [(event, k, v) for event in fresh if event["event"] == "metrics" for k, v in event["values"].items()]
    for first in range(0, len(points), _POINTS_PER_CALL):
        _log_points(client, state.run_id, points[first : first + _POINTS_PER_CALL])
    for event in fresh:
        if event["event"] == "tags":
            _log_tags(client, state.run_id, event["values"])
        elif event["event"] == "cached":
            _log_tags(client, state.run_id, {_cached_tag(event["stage"]): _producer(client, event)})
        elif event["event"] == "keep" and (kept := Path(event["path"])).exists():
            log = client.log_artifacts if kept.is_dir() else client.log_artifact
            log(state.run_id, str(kept), event["folder"] or None)
    state.offset = offset
    _save(state, state_path)
    closing = next((event for event in fresh if event["event"] == "end"), None)
    if closing is None and not at_work:
        closing = {"status": "KILLED", "time_ms": int(path.stat().st_mtime * 1000)}
    if closing is None:
        return False
    client.set_terminated(state.run_id, closing["status"], closing["time_ms"])
    shutil.rmtree(spool.kept_files(path), ignore_errors=True)
    path.unlink()
    state_path.unlink(missing_ok=True)
    return True


def _beginning(path: Path) -> dict[str, Any] | None:
    """A record's first event; None if it is not there, or not whole."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        event = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return None
    return event if event.get("event") == "start" else None


def _read_events(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a record from `offset` on, and where what comes after them begins: the end, or nothing yet.

    A torn last line waits for its rest. A training writes for days: what was delivered is not read again.
    """
    events = []
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                events.append(json.loads(line))
            except ValueError:
                pass  # a full disk cut it short, and the next one was written behind it
            else:
                if events[-1]["event"] == "end":
                    break
            offset += len(line)
    return events, offset


def _give_up(path: Path) -> bool:
    """Set aside a record without a beginning, once its writer has surely had the time to write one; True if done."""
    if time.time() - path.stat().st_mtime < _BEGINNING_SECONDS:
        return False
    path.rename(path.with_suffix(".unreadable"))
    return True


def _at_work(start: dict[str, Any]) -> bool:
    """Whether the process that opened the record lives, and is not another one under a number used again."""
    try:
        process = psutil.Process(start["pid"])
        same = process.create_time() * 1000 <= start["time_ms"] + 1000
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _find_run(client: Any, key: str) -> str | None:
    found = client.search_runs([experiment_id(client)], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0].info.run_id if found else None


def _create_run(client: Any, start: dict[str, Any]) -> str:
    tags = {KEY_TAG: start["key"], f"homegrown.{start['kind']}": start["name"], "mlflow.source.name": "homegrown"}
    parent = _find_run(client, start["parent"]) if start["parent"] else None
    if parent:
        tags["mlflow.parentRunId"] = parent
    run = client.create_run(
        experiment_id(client), start_time=start["time_ms"], tags={**start["tags"], **tags}, run_name=start["name"]
    )
    return str(run.info.run_id)


def _log_params(client: Any, run_id: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, value[:_PARAM_CHARACTERS]) for key, value in params.items()])


def _cached_tag(stage: str) -> str:
    return f"homegrown.cached.{stage.replace('@', '.')}"  # MLflow takes no @ in a tag's name


def _producer(client: Any, event: dict[str, Any]) -> str:
    """The run that made what a cached stage left, found by digest; the digest itself if MLflow has no such run."""
    for name, digest in event["artefacts"].items():
        wanted = f"tags.`homegrown.stage` = '{event['stage']}' and tags.`homegrown.artefact.{name}` = '{digest}'"
        found = client.search_runs([experiment_id(client)], wanted, max_results=1)
        return str(found[0].info.run_id) if found else f"sha256:{digest}"
    return "unchanged"


def _log_points(client: Any, run_id: str, points: list[tuple[dict[str, Any], str, float]]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(key, value, event["time_ms"], event["step"]) for event, key, value in points]
    client.log_batch(run_id, metrics=metrics)


def _log_tags(client: Any, run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])


def _save(state: _State, path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state)))
    partial.replace(path)
