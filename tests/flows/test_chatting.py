"""`homegrown chat`: turns on a terminal, a JSON conversation a line off it, and the same answers on both."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from model.conversations import Turn
from tests.flows.conftest import environment
from tests.pipeline.learned_talks import CURT, KIND, register

pytestmark = pytest.mark.slow  # a registry is made, and the command is run in processes of its own


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose registry holds an assistant, and a base that learned no turns."""
    root = tmp_path_factory.mktemp("registered")
    (root / "dvc.yaml").write_text("stages: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        register(root / "assistant", "instructions")
        register(root / "base", "language-model")
    return root


@pytest.fixture
def project(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, to be worked in."""
    monkeypatch.chdir(registered)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered}/mlflow.db")
    return registered


@pytest.fixture
def ask(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[Any], str]]:
    """Run the command with lines for its input; its exit code, what it answered and what it complained of."""

    def run(lines: str | bytes, *arguments: str) -> tuple[int, list[Any], str]:
        (tmp_path / "asked").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
        with (tmp_path / "asked").open(encoding="utf-8") as asked:
            monkeypatch.setattr(sys, "stdin", asked)
            code = cli.execute(["chat", *arguments])
        printed = capsys.readouterr()
        return code, [json.loads(line) for line in printed.out.splitlines()], printed.err

    return run


class Terminal:
    """The command at a terminal of its own."""

    def __init__(self, project: Path, *arguments: str) -> None:
        self.screen, terminal = pty.openpty()
        env = {**environment(), "TERM": "dumb", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "flows.cli", "chat", *arguments]
        self.process = subprocess.Popen(
            command, cwd=project, env=env, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE
        )
        os.close(terminal)

    def until(self, text: str) -> str:
        """What the screen shows until the text stands on it."""
        shown = ""
        deadline = time.monotonic() + 120
        while text not in shown:
            assert time.monotonic() < deadline, shown
            shown += os.read(self.screen, 4096).decode(errors="replace")
        return shown

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.screen, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and what was complained of."""
        assert self.process.stderr
        error = self.process.stderr.read().decode()
        return self.process.wait(60), error


@pytest.fixture
def at_terminal(project: Path) -> Iterator[Callable[..., Terminal]]:
    """Start the command at a terminal; it is ended with the test."""
    terminals: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        terminals.append(Terminal(project, *arguments))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.process.kill()
        terminal.process.wait()
        assert terminal.process.stderr
        terminal.process.stderr.close()
        os.close(terminal.screen)


def line(turns: list[Turn]) -> str:
    """A conversation as a line of the input."""
    return json.dumps([turn._asdict() for turn in turns]) + "\n"


def test_each_line_is_a_conversation_and_its_answer_a_turn(ask: Callable[..., Any]) -> None:
    """The assistant says its next turn of the talk that it learned; blank lines are passed over."""
    lines = [line(CURT[:1]), "\n", line(KIND[:4]), line(CURT[:3]), line(KIND[:2])]
    expected = [CURT[1], KIND[4], CURT[3], KIND[2]]
    assert ask("".join(lines)) == (0, [turn._asdict() for turn in expected], "")


def test_the_system_s_turn_stands_before_a_conversation_without_one(ask: Callable[..., Any]) -> None:
    """--system says what the first turn would say, and gives way to a conversation's own."""
    bare, own = line(KIND[1:4]), line([Turn("system", "Growl."), *KIND[1:4]])
    _, [kind, growled], _ = ask(bare + own, "--system", "Be kind.")
    assert kind == KIND[4]._asdict()
    assert growled == ask(own)[1][0]


def test_an_answer_is_written_as_asked(ask: Callable[..., Any]) -> None:
    """It ends before a stop string, and after so many tokens."""
    assert ask(line(KIND[:4]), "--stop", "end")[1][0]["content"] == "A fri"
    assert ask(line(KIND[:4]), "--max-new-tokens", "3", "--temperature", "0.1", "--seed", "2")[1][0]["content"] == "A f"


GOOD = line(CURT[:1])


@pytest.mark.parametrize(
    ("lines", "arguments", "code", "said", "answered"),
    [
        (f"{GOOD}SECRET", [], 64, "line 2 is not JSON; give a list of turns in each line", 1),
        (b'"\xff"', [], 64, "line 1 is not JSON", 0),
        ("[" * 100_000, [], 64, "line 1 is not JSON", 0),
        ('\n{"messages": "SECRET"}', [], 64, "line 2: a conversation must be a list of turns", 0),
        ('[{"role": "SECRET", "content": "Hi"}]', [], 64, "line 1: turn 1 must have the role system, user", 0),
        ("[]", [], 64, "line 1: the conversation is empty", 0),
        (GOOD, ["--top-p", "2"], 64, "assistant: top_p is 2.0", 0),
        (GOOD, ["--weights", "int3"], 64, "assistant: weights is 'int3'", 0),
        ("", ["--model", "base"], 64, "base has no template to chat through: use `homegrown generate`", 0),
        ("", ["--model", "nobody"], 69, "nobody has no champion in the registry (registered: assistant, base)", 0),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line_that_tells_nothing(
    lines: str | bytes, arguments: list[str], code: int, said: str, answered: int, ask: Callable[..., Any]
) -> None:
    """The line at fault is named and not repeated; what stood before it has been answered."""
    found, answers, error = ask(lines, "--max-new-tokens", "2", *arguments)
    assert (found, len(answers), len(error.splitlines())) == (code, answered, 1)
    assert error.startswith(f"homegrown: {said}") and "SECRET" not in error


def test_at_the_terminal_each_turn_is_answered_in_its_turn(at_terminal: Callable[..., Terminal]) -> None:
    """Every answer is that of the whole talk so far; an empty line ends it with 0."""
    terminal = at_terminal("--system", "Be kind.")
    terminal.until("> ")
    for question, answer in (KIND[1:3], KIND[3:5]):
        terminal.type(f"{question.content}\n")
        shown = terminal.until("\n> ").replace("\r", "")
        assert shown == f"{question.content}\n{answer.content}\n> "
    terminal.type("\n")
    assert terminal.end() == (0, "talking with assistant; an empty line ends it\n")


def test_ctrl_d_ends_and_ctrl_c_interrupts(at_terminal: Callable[..., Terminal]) -> None:
    """Ctrl-D is an end like an empty line; Ctrl-C leaves with 130 and says so in one line."""
    first, second = at_terminal(), at_terminal()
    first.until("> ")
    first.type("\x04")
    assert first.end()[0] == 0
    second.until("> ")
    second.process.send_signal(signal.SIGINT)
    code, error = second.end()
    assert (code, error.splitlines()[1:]) == (130, ["homegrown: interrupted"])
