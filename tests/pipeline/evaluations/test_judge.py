"""The judge, tried against a small server that speaks as Ollama does: what it says counts, and what it said stays."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigurationError, DataError, DependencyError
from pipeline.evaluations.answers import open_answers
from pipeline.evaluations.judge import Judge, Task, evaluate, points_of, read_tasks, save_responses

TASKS = [Task(str(n), f"Name animal {n}.", "", f"animal {n}") for n in range(3)]


class Ollama:
    """A judge on loopback: `say` makes each reply from the request's body."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.say: Callable[[dict[str, Any]], bytes] = lambda body: answer("80")
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append({**body, "path": self.path})
                reply = outer.say(body)
                self.send_response(outer.status)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # who asked has gone
                    self.wfile.write(reply)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def answer(text: str) -> bytes:
    """A reply in Ollama's form."""
    return json.dumps({"message": {"role": "assistant", "content": text}, "done": True}).encode()


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """A server for one test."""
    made = Ollama()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


RESPONSES = {f"response:{task.id}": task.reference for task in TASKS}


def test_each_response_is_judged_as_often_as_asked(ollama: Ollama, tmp_path: Path) -> None:
    """Points are averaged over rounds whose spread is said; the judge is asked at temperature 0, seed 123."""
    rounds = iter([60, 60, 60, 80, 80, 80])
    ollama.say = lambda body: answer(str(next(rounds)))
    with open_answers("key", tmp_path) as answers:
        answers.add(RESPONSES)
        (points, unread), note = evaluate(Judge("llama3", ollama.url, repeats=2), TASKS, answers)
    assert points.scores == (70.0, 70.0, 70.0) and unread.scores == (0.0, 0.0, 0.0)
    assert note.startswith("2 rounds of 60.00, 80.00 points, standard deviation 14.14; 0 of 6")
    assert len(ollama.asked) == 6
    asked = ollama.asked[0]
    assert (asked["path"], asked["model"], asked["stream"]) == ("/api/chat", "llama3", False)
    assert asked["options"] == {"temperature": 0, "seed": 123, "num_ctx": 2048}
    assert "Name animal 0." in asked["messages"][0]["content"]


def test_an_answer_that_is_no_number_gets_no_points_and_is_counted(ollama: Ollama, tmp_path: Path) -> None:
    """Of three answers one is chatter: it counts as 0 points, and as a third that could not be read."""
    replies = iter(["90", "I would say it is quite good", "60/100"])
    ollama.say = lambda body: answer(next(replies))
    with open_answers("key", tmp_path) as answers:
        answers.add(RESPONSES)
        (points, unread), note = evaluate(Judge("llama3", ollama.url, repeats=1), TASKS, answers)
    assert points.scores == (90.0, 0.0, 60.0) and unread.scores == (0.0, 1.0, 0.0)
    assert "1 of 3 answers were no number from 0 to 100" in note


@pytest.mark.parametrize(
    ("reply", "points"),
    [("85", 85), (" 0\n", 0), ("100.", 100), ("85/100", 85), ("7 points", 7), ("101", None), ("-5", None), ("", None),
     ("between 80 and 90", None), ("8.5", None), ("Score: 85", None), ("\u0665", None)],
)  # fmt: skip
def test_points_are_a_whole_number_from_0_to_100(reply: str, points: int | None) -> None:
    """Anything else is unparseable, however friendly."""
    assert points_of(reply) == points


def test_a_judge_that_goes_away_leaves_what_it_said(ollama: Ollama, tmp_path: Path) -> None:
    """The error says how much is kept; run again, only the rest is asked."""

    def dies(body: dict[str, Any]) -> bytes:
        ollama.status = 500 if len(ollama.asked) == 3 else 200
        return answer("50")

    ollama.say = dies
    judge = Judge("llama3", ollama.url, repeats=1)
    with open_answers("key", tmp_path) as answers:
        answers.add(RESPONSES)
        with pytest.raises(DependencyError, match=r"answers with 500; see its log, then run again: 2 of 3 answers"):
            evaluate(judge, TASKS, answers)
    ollama.say, ollama.status = (lambda body: answer("70")), 200
    with open_answers("key", tmp_path) as answers:
        (points, _), _ = evaluate(judge, TASKS, answers)
    assert points.scores == (50.0, 50.0, 70.0) and len(ollama.asked) == 4


def test_every_way_of_not_answering_is_one_line(ollama: Ollama, tmp_path: Path) -> None:
    """Nobody there, no such model, too slow, another service: what to do is in the message."""

    def refused(judge: Judge) -> str:
        with open_answers("key", tmp_path) as answers, pytest.raises(DependencyError) as error:
            answers.add(RESPONSES)
            evaluate(judge, TASKS, answers)
        assert "\n" not in str(error.value)
        return str(error.value)

    ollama.say = lambda body: time.sleep(1.0) or answer("1")  # type: ignore[func-returns-value]
    assert "took more than 0.2 s" in refused(Judge("llama3", ollama.url, 1, 0.2))
    ollama.say, ollama.status = (lambda body: b"{}"), 404
    assert "ollama pull llama3" in refused(Judge("llama3", ollama.url, 1))
    for other in (b"<html>", b"{}", b'{"message": 1}'):
        ollama.say, ollama.status = (lambda body, other=other: other), 200
        assert "does not speak as Ollama does" in refused(Judge("llama3", ollama.url, 1))
    ollama.server.shutdown()
    ollama.server.server_close()
    assert "start it with: ollama serve" in refused(Judge("llama3", ollama.url, 1))
    with pytest.raises(ConfigurationError, match="expected http://HOST:PORT"):
        Judge("llama3", "localhost:11434")


def test_instructions_are_read_and_bad_ones_counted(tmp_path: Path) -> None:
    """A JSON list as the tutorial has it, or JSON Lines; what is no instruction is counted."""
    path = tmp_path / "instructions.json"
    row = {"instruction": "Say hello.", "input": "", "output": "hello"}
    path.write_text(json.dumps([row, {"instruction": 3, "output": "x"}, {}, row]))
    tasks, rejected = read_tasks(path)
    assert tasks == [Task("1", "Say hello.", "", "hello"), Task("4", "Say hello.", "", "hello")]
    assert list(rejected) == ["2", "3"]
    path.write_text(json.dumps({"instruction": "Say hello.", "response": "hello"}) + "\n{torn\n")
    tasks, rejected = read_tasks(path)
    assert len(tasks) == 1 and rejected == {"2": "not JSON"}
    path.write_text("nothing\n")
    with pytest.raises(DataError, match="none of its 1 records"):
        read_tasks(path)


def test_responses_are_saved_whole(tmp_path: Path) -> None:
    """The file is one JSON list with every response beside its task."""
    with open_answers("key", tmp_path) as answers:
        answers.add(RESPONSES)
        save_responses(TASKS, answers, tmp_path / "responses.json")
    rows = json.loads((tmp_path / "responses.json").read_text())
    assert [row["model_response"] for row in rows] == ["animal 0", "animal 1", "animal 2"]
    assert list(tmp_path.glob(".partial*")) == []
