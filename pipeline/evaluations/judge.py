"""Goes in: instructions with good responses, a model's responses, a judge. Comes out: 0 to 100 points for each.

The judge is a language model behind Ollama's HTTP interface (POST /api/chat), asked at temperature 0 with a fixed seed,
several times over, for even so its answers vary. An answer that is no number from 0 to 100 gets no points and is
counted beside them: dropping it would flatter.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.digests import digest_of
from pipeline.errors import ConfigurationError, DataError, DependencyError, machine_errors
from pipeline.evaluations.answers import Answers
from pipeline.evaluations.measures import Measure
from pipeline.loaded_model import LoadedModel

OPTIONS = {"temperature": 0, "seed": 123, "num_ctx": 2048}
RESPONSES_AT_ONCE = 8
RESPONSE_TOKENS = 256
# An answer is a number, perhaps with what people put after one.
_POINTS = re.compile(r"(\d{1,3})(?:\s*/\s*100|\s*points?)?\.?", re.IGNORECASE | re.ASCII)
_LONGEST_REPLY_BYTES = 1 << 20


@dataclass(frozen=True)
class Judge:
    """Who judges, and how often."""

    model: str
    """As Ollama names it: llama3."""
    url: str = "http://localhost:11434"
    """Where Ollama, or what speaks as it does, listens."""
    repeats: int = 3
    """How often each response is judged."""
    timeout_seconds: float = 120.0
    """How long one judgement may take."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigurationError(f"--judge-url {self.url}: expected http://HOST:PORT")
        if self.repeats < 1:
            raise ConfigurationError(f"--repeats {self.repeats}: expected 1 or more")


@dataclass(frozen=True, slots=True)
class Task:
    """What was asked, and a good response to it."""

    id: str
    instruction: str
    input: str
    reference: str


def read_tasks(path: Path) -> tuple[list[Task], dict[str, str]]:
    """The tasks of a JSON list or JSON Lines, and line or place → why it is none.

    An object has `instruction`, perhaps `input`, and `response` (or `output`, as the tutorial's data).
    """
    if not path.is_file():
        raise ConfigurationError(f"--data {path}: not a file; the judge needs a file of instructions")
    with machine_errors("evaluate", path):
        content = path.read_bytes()
    try:
        whole = json.loads(content)
        records: Sequence[Any] = whole if isinstance(whole, list) else [whole]
    except (ValueError, RecursionError):
        records = content.split(b"\n")[: -1 if content.endswith(b"\n") else None]
    tasks: list[Task] = []
    rejected: dict[str, str] = {}
    for number, record in enumerate(records, 1):
        try:
            row = json.loads(record) if isinstance(record, bytes) else record
            texts = (row["instruction"], row.get("input") or "", row.get("response") or row["output"])
            if not all(isinstance(text, str) for text in texts) or not texts[0].strip():
                raise TypeError
            tasks.append(Task(str(number), *texts))
        except (ValueError, RecursionError):
            rejected[str(number)] = "not JSON"
        except (KeyError, TypeError, AttributeError):
            rejected[str(number)] = "needs the texts instruction and response (or output), and may have input"
    assert len(tasks) + len(rejected) == len(records)
    if not tasks:
        raise DataError(f"{path}: none of its {len(records):,} records can be asked")
    return tasks, rejected


def respond(loaded: LoadedModel, tasks: Sequence[Task], answers: Answers) -> None:
    """Let the model answer every task greedily; what it wrote is kept in `answers`."""
    waiting = [task for task in tasks if f"response:{task.id}" not in answers]
    for first in range(0, len(waiting), RESPONSES_AT_ONCE):
        some = waiting[first : first + RESPONSES_AT_ONCE]
        texts = loaded.generate(
            [task.instruction for task in some],
            inputs=[task.input for task in some],
            max_new_tokens=RESPONSE_TOKENS,
            temperature=0.0,
        )
        answers.add({f"response:{task.id}": text for task, text in zip(some, texts, strict=True)})


def save_responses(tasks: Sequence[Task], answers: Answers, path: Path) -> None:
    """Write every task with its response as one JSON list, whole or not at all."""
    rows = [
        {
            "instruction": task.instruction,
            "input": task.input,
            "output": task.reference,
            "model_response": answers[f"response:{task.id}"],
        }
        for task in tasks
    ]
    partial = path.with_name(f".partial-{path.name}-{os.getpid()}")
    with machine_errors("evaluate", path):
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(rows, file, indent=2, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def evaluate(
    judge: Judge,
    tasks: Sequence[Task],
    answers: Answers,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Measure], str]:
    """Have every response judged as often as asked, keeping each answer at once; the measures, and their spread."""
    total = len(tasks) * judge.repeats
    replies: dict[str, list[str]] = {task.id: [] for task in tasks}
    done = 0
    for turn in range(judge.repeats):
        for task in tasks:
            key = f"judged:{task.id}:{turn}"
            if key not in answers:
                kept = sum(f"judged:{t.id}:{r}" in answers for t in tasks for r in range(judge.repeats))
                reply = _ask(
                    judge, _prompt(task, answers[f"response:{task.id}"]), f"{kept} of {total} answers are kept"
                )
                answers.add({key: reply})
            replies[task.id].append(answers[key])
            done += 1
            on_progress(done, total)
    return measures(tasks, replies)


def measures(tasks: Sequence[Task], replies: dict[str, list[str]]) -> tuple[list[Measure], str]:
    """Points and the share that is no number, for each task over its repeats; and in words how far repeats differ."""
    data = digest_of([asdict(task) for task in tasks])
    ids = tuple(task.id for task in tasks)
    points = [[points_of(reply) for reply in replies[id_]] for id_ in ids]
    scores = tuple(statistics.fmean(p or 0 for p in row) for row in points)
    unread = tuple(sum(p is None for p in row) / len(row) for row in points)
    averages = [statistics.fmean(row[turn] or 0 for row in points) for turn in range(len(points[0]))]
    n_unread, n_replies = sum(p is None for row in points for p in row), sum(map(len, points))
    spread = statistics.stdev(averages) if len(averages) > 1 else 0.0
    note = (
        f"{len(averages)} rounds of {', '.join(f'{a:.2f}' for a in averages)} points, standard deviation {spread:.2f}; "
        f"{n_unread} of {n_replies} answers were no number from 0 to 100 and got none"
    )
    found = [
        Measure("judge points", ids, scores, data),
        Measure("judge unparseable", ids, unread, data, higher_is_better=False),
    ]
    return found, note


def points_of(reply: str) -> int | None:
    """The points that a reply gives, or None if it is no number from 0 to 100."""
    found = _POINTS.fullmatch(reply.strip())
    return int(found[1]) if found and int(found[1]) <= 100 else None


def _prompt(task: Task, response: str) -> str:
    asked = f"{task.instruction}\n{task.input}".strip()
    return (
        "Grade how well a response fulfils a task, from 0 (not at all) to 100 (as well as can be). A correct response "
        "is given for comparison.\n\n"
        f"Task:\n{asked}\n\nCorrect response:\n{task.reference}\n\nResponse to grade:\n{response}\n\n"
        "Answer with the grade alone: a whole number, no words."
    )


def _ask(judge: Judge, prompt: str, kept: str) -> str:
    """The judge's reply; DependencyError in one line if there is none."""
    body = {
        "model": judge.model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": False,
        "options": OPTIONS,
    }
    address = f"{judge.url.rstrip('/')}/api/chat"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    after = f"then run again: {kept}"
    try:
        with urllib.request.urlopen(request, timeout=judge.timeout_seconds) as reply:
            content = json.loads(reply.read(_LONGEST_REPLY_BYTES))["message"]["content"]
    except urllib.error.HTTPError as error:
        mend = f"get the model with: ollama pull {judge.model}" if error.code == 404 else "see its log"
        raise DependencyError(f"the judge at {judge.url} answers with {error.code}; {mend}, {after}") from error
    except TimeoutError as error:
        raise DependencyError(
            f"the judge at {judge.url} took more than {judge.timeout_seconds:g} s; raise --judge-timeout, {after}"
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer in {judge.timeout_seconds:g} s"
        raise DependencyError(
            f"the judge at {judge.url} does not answer ({reason}); start it with: ollama serve, {after}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyError(
            f"what listens at {judge.url} does not speak as Ollama does; correct it, {after}"
        ) from error
    return str(content)
