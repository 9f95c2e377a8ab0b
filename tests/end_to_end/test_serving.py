"""What a finished run offers: pages, figures, models that answer over HTTP and in Python."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.end_to_end.clone import Clone

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]


def fetch(url: str, body: Any = None) -> Any:
    """GET, or POST of JSON; the answer as text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


@contextmanager
def served(clone: Clone, model: str) -> Iterator[str]:
    """`mlflow models serve` of a model's champion, as the README says; its address. Ended by process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        f"models:/{model}@champion",
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    log = (clone.root / f"serve-{model}.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=clone.root, env=clone.environment(), stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                fetch(f"http://127.0.0.1:{port}/ping")
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < deadline, (clone.root / log.name).read_text()
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()
        (clone.root / f"serve-{model}.log").unlink()


def test_champions_answer_over_http(finished: Clone) -> None:
    """The assistant answers with text, the classifier with a label and the probability of each."""
    with served(finished, "assistant") as address:
        question = {"prompt": "Which city is named?", "input": "We met in Lisbon."}
        [answer] = json.loads(fetch(address, {"dataframe_records": [question]}))["predictions"]
        assert isinstance(answer["text"], str)
        said = [{"role": "user", "content": "Which city is named?\n\n### Input:\nWe met in Lisbon."}]
        assert json.loads(fetch(address, {"dataframe_records": [{"messages": said}]}))["predictions"] == [answer]
    with served(finished, "spam") as address:
        [answer] = json.loads(fetch(address, {"dataframe_records": [{"text": "win now"}]}))["predictions"]
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_champions_load_in_python(finished: Clone) -> None:
    """`mlflow.pyfunc.load_model` gives what the command line gives; sampling options pass as params."""
    script = """
import json, mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/base@champion")
frame = pd.DataFrame({"prompt": ["Return the"]})
options = {"max_new_tokens": 6, "temperature": 0.8, "top_k": 50, "seed": 5}
print(json.dumps(model.predict(frame, params=options)["text"].tolist()))
"""
    [text] = json.loads(finished.run(sys.executable, "-c", script).stdout.splitlines()[-1])
    typed = ("generate", "Return the", "--max-new-tokens", "6", "--temperature", "0.8", "--seed", "5")
    assert finished.homegrown(*typed).stdout == f"Return the{text}\n"


def test_a_tampered_model_is_refused(finished: Clone) -> None:
    """One flipped byte in the registry's copy of the weights: 77, and no answer."""
    copies = {p: p.read_bytes() for p in (finished.root / "mlruns").rglob("model.safetensors") if is_of(p, "spam")}
    for weights, good in copies.items():
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        refused = finished.homegrown("classify", "hello", check=False)
        assert refused.returncode == 77
        assert "model.safetensors" in refused.stderr
    finally:
        for weights, good in copies.items():
            weights.write_bytes(good)


def is_of(weights: Any, name: str) -> bool:
    """Whether an exported folder is of that model."""
    return bool(json.loads((weights.parent / "homegrown.json").read_text())["name"] == name)


def test_both_pages_open_and_both_servers_stop(finished: Clone) -> None:
    """`homegrown ui` prints two addresses that answer, the registry's models among them, and `--stop` ends both."""
    printed = finished.homegrown("ui", "--background").stdout
    addresses = dict(re.findall(r"(MLflow|Prefect) +(http://127\.0\.0\.1:\d+)", printed))
    try:
        assert "<title>MLflow" in fetch(addresses["MLflow"])
        models = json.loads(fetch(addresses["MLflow"] + "/api/2.0/mlflow/registered-models/search"))
        assert {model["name"] for model in models["registered_models"]} == {"base", "assistant", "spam"}
        assert "Prefect" in fetch(addresses["Prefect"])
    finally:
        finished.stop_servers()
    for address in addresses.values():
        with pytest.raises(urllib.error.URLError):
            fetch(address)


def test_dvc_shows_figures_and_plots(finished: Clone) -> None:
    """`dvc metrics show` lists each model's figures, `dvc plots show` draws the curves into one page."""
    figures = json.loads(finished.run(sys.executable, "-m", "dvc", "metrics", "show", "--json").stdout)
    found = [path for path, entry in figures[""]["data"].items() if "data" in entry]
    assert len(found) == 3
    finished.run(sys.executable, "-m", "dvc", "plots", "show")
    page = finished.root / "dvc_plots" / "index.html"
    assert "bits per byte" in page.read_text(encoding="utf-8")
    for file in sorted(page.parent.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    page.parent.rmdir()


def test_the_doctor_finds_a_finished_clone_well(finished: Clone) -> None:
    """`homegrown doctor --json` names versions, device and state, and exits 0."""
    report = finished.homegrown("doctor", "--json")
    assert json.loads(report.stdout)
