"""Every event of the spool reaches MLflow once, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.tracking import delivery, spool
from pipeline.tracking.connection import connect
from pipeline.tracking.delivery import KEY_TAG, deliver_once, deliver_until_done

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("mlflow_store")]

Python = Callable[..., subprocess.CompletedProcess[str]]

# Delivers, and is killed by SIGKILL at the call to MLflow or of Path.replace whose number is given, before or after it.
KILLED_DELIVERY = """\
import os, pathlib, signal, sys
from pipeline.tracking import connection, delivery
left, when = int(sys.argv[1]), sys.argv[2]
def counting(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = function(*arguments, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return call
client = connection.connect()
for name in ("create_run", "log_batch", "log_artifact", "set_terminated"):
    setattr(client, name, counting(getattr(client, name)))
pathlib.Path.replace = counting(pathlib.Path.replace)
delivery.deliver_once(client)
print("survived")
"""


def record_a_run(parent: str | None = None) -> spool.RunRecord:
    """A stage's run with two curves' points, a tag, a file, and an end."""
    record = spool.open_record("stage", "pretrain", params={"steps": 3, "long": "x" * 9000}, parent=parent)
    for step in (1, 2, 3):
        record.metrics({"loss": 3.0 / step, "rate": 0.5}, step)
    record.tags({"homegrown.artefact.tokens": "0123"})
    Path("samples.json").write_text("[]")
    record.keep(Path("samples.json"), "samples")
    record.end("FINISHED")
    return record


def runs(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name("homegrown")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def points(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def assert_delivered_once(client: Any, record: spool.RunRecord) -> None:
    [run] = [run for run in runs(client) if run.data.tags[KEY_TAG] == record.key]
    assert points(client, run, "loss") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert points(client, run, "rate") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert run.data.params == {"steps": "3", "long": "x" * 500}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "pretrain")
    assert run.data.tags["homegrown.artefact.tokens"] == "0123"
    assert run.data.tags["homegrown.stage"] == "pretrain"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples")] == ["samples/samples.json"]


def test_a_record_becomes_a_run() -> None:
    """Params, every point of every curve, tags, files and status arrive; the spool is empty afterwards."""
    record = record_a_run()
    client = connect()
    assert deliver_once(client) == 0
    assert_delivered_once(client, record)
    assert list(spool.SPOOL.iterdir()) == []


def test_an_open_record_is_delivered_as_it_grows() -> None:
    """What was said is there while the stage still works; nothing is there twice when it ends."""
    record = spool.open_record("stage", "pretrain")
    client = connect()
    seen = []
    for step in (1, 2):
        record.metrics({"loss": 1.0}, step)
        assert deliver_once(client) == 1
        [run] = runs(client)
        seen.append((run.info.status, points(client, run, "loss")))
    record.end("FAILED")
    assert deliver_once(client) == 0
    assert seen == [("RUNNING", [(1, 1.0)]), ("RUNNING", [(1, 1.0), (2, 1.0)])]
    assert [(run.info.status, points(client, run, "loss")) for run in runs(client)] == [
        ("FAILED", [(1, 1.0), (2, 1.0)])
    ]


def test_what_was_delivered_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long record only the first line and what was added since are parsed."""
    record = spool.open_record("stage", "pretrain")
    for step in range(1000):
        record.metrics({"loss": 1.0}, step)
    client = connect()
    deliver_once(client)
    record.metrics({"loss": 1.0}, 1000)
    record.end("FINISHED")
    parsed: list[bytes] = []
    whole = json.loads
    with monkeypatch.context() as patch:
        patch.setattr(delivery.json, "loads", lambda text: parsed.append(text) or whole(text))
        patch.setattr(delivery, "_log_points", lambda *_: None)
        patch.setattr(client, "set_terminated", lambda *_: None)
        assert deliver_once(client) == 0
    lines = [text for text in parsed if b"time_ms" in (text if isinstance(text, bytes) else text.encode())]
    assert [whole(line)["event"] for line in lines] == ["start", "metrics", "end"]


def test_children_are_linked_to_their_parent() -> None:
    """A stage's run carries its pipeline run as mlflow.parentRunId."""
    parent = spool.open_record("pipeline", "pipeline-small")
    child = record_a_run(parent=parent.key)
    parent.end("FINISHED")
    client = connect()
    deliver_once(client)
    by_key = {run.data.tags[KEY_TAG]: run for run in runs(client)}
    assert by_key[child.key].data.tags["mlflow.parentRunId"] == by_key[parent.key].info.run_id


def test_a_cached_stage_names_the_run_that_made_what_it_left() -> None:
    """The parent's tag for a stage that DVC skipped is the run that once wrote the digest, or the digest itself."""
    maker = spool.open_record("stage", "finetune@spam")
    maker.tags({"homegrown.artefact.checkpoint": "77"})
    maker.end("FINISHED")
    parent = spool.open_record("pipeline", "pipeline-small")
    parent.cached("finetune@spam", {"checkpoint": "77"})
    parent.cached("clean", {"documents": "88"})
    parent.cached("register", {})
    parent.end("FINISHED")
    client = connect()
    deliver_once(client)
    by_key = {run.data.tags[KEY_TAG]: run for run in runs(client)}
    tags = {k: v for k, v in by_key[parent.key].data.tags.items() if k.startswith("homegrown.cached")}
    assert tags == {
        "homegrown.cached.finetune.spam": by_key[maker.key].info.run_id,
        "homegrown.cached.clean": "sha256:88",
        "homegrown.cached.register": "unchanged",
    }


def test_delivery_killed_anywhere_delivers_everything_once(python: Python) -> None:
    """Killed at one call after the other, delivery ends with each event there once."""
    uri = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    records = []
    for call, when in ((1, "after"), (4, "after"), (8, "before"), (8, "after")):
        records.append(record_a_run())
        assert python("-c", KILLED_DELIVERY, str(call), when, cwd=Path.cwd(), **uri).returncode == -9
        assert spool.waiting() != []
    client = connect()
    assert deliver_once(client) == 0
    assert len(runs(client)) == len(records)
    for record in records:
        assert_delivered_once(client, record)


def test_the_run_of_a_dead_process_is_closed_as_killed(python: Python) -> None:
    """A record without an end, whose writer is no more, does not stay RUNNING for ever."""
    code = """\
import os, signal
from pipeline.tracking import delivery, spool
record = spool.open_record("stage", "pretrain")
record.metrics({"loss": 1.0}, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    python("-c", code, cwd=Path.cwd())
    client = connect()
    assert deliver_once(client) == 0
    assert [(run.info.status, run.data.metrics) for run in runs(client)] == [("KILLED", {"loss": 1.0})]


def test_a_process_that_was_killed_but_not_waited_for_is_dead() -> None:
    """A zombie writes no more: its run is closed too."""
    code = "from pipeline.tracking import spool; spool.open_record('stage', 'clean')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    )
    deadline = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    client = connect()
    left = deliver_once(client)
    process.wait()
    assert (left, [run.info.status for run in runs(client)]) == (0, ["KILLED"])


def test_a_torn_line_waits_for_its_rest() -> None:
    """A line that is being written is not read until it is whole."""
    record = spool.open_record("stage", "clean")
    with record.path.open("a") as file:
        file.write('{"event": "metrics", "time_ms": 1, "values"')
    client = connect()
    assert deliver_once(client) == 1
    with record.path.open("a") as file:
        file.write(': {"loss": 4.0}, "step": 1}\n')
    record.end("FINISHED")
    deliver_once(client)
    assert [run.data.metrics for run in runs(client)] == [{"loss": 4.0}]


def test_a_line_cut_short_by_a_full_disk_costs_itself_only() -> None:
    """Two lines run into one are passed over; the events before and after them arrive, and so do other records."""
    record = spool.open_record("stage", "clean")
    with record.path.open("a") as file:
        file.write('{"event": "metrics", "time_ms": 1, "val')
    record.metrics({"lost": 1.0})
    record.metrics({"kept": 1.0})
    record.end("FINISHED")
    other = record_a_run()
    client = connect()
    assert deliver_once(client) == 0
    assert [run.data.metrics for run in runs(client) if run.data.tags[KEY_TAG] == record.key] == [{"kept": 1.0}]
    assert_delivered_once(client, other)


def test_a_record_without_a_beginning_does_not_keep_delivery_busy() -> None:
    """A writer killed before its first line leaves an empty file: it is set aside, and delivery ends."""
    spool.SPOOL.mkdir(parents=True)
    empty = spool.SPOOL / "00000000000000000001-a.jsonl"
    empty.touch()
    client = connect()
    assert deliver_once(client) == 1
    os.utime(empty, (1, 1))
    record = record_a_run()
    deliver_until_done(poll_seconds=0.01, linger_seconds=0.05)
    assert [path.name for path in spool.SPOOL.iterdir()] == ["00000000000000000001-a.unreadable"]
    assert_delivered_once(client, record)


def test_with_mlflow_gone_the_spool_waits_and_is_replayed_once(python: Python) -> None:
    """Delivery to a server that is down ends in seconds with one line and code 69; when it is up, all arrives."""
    record = record_a_run()
    began = time.monotonic()
    ended = python("-m", "pipeline.tracking", cwd=Path.cwd(), MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert time.monotonic() - began < 60
    assert ended.returncode == 69
    assert "MLflow at http://127.0.0.1:1 does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert spool.waiting() == [record.path.relative_to(Path.cwd()) if record.path.is_absolute() else record.path]
    client = connect()
    deliver_once(client)
    assert_delivered_once(client, record)


def test_a_record_outlives_the_database() -> None:
    """If somebody deletes the run or the database in mid-delivery, the record is delivered anew."""
    record = record_a_run()
    (record.path.with_suffix(".state")).write_text('{"run_id": "0123456789abcdef0123456789abcdef", "offset": 700}')
    client = connect()
    assert (deliver_once(client), deliver_once(client)) == (1, 0)
    assert_delivered_once(client, record)
