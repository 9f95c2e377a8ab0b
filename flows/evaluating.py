"""`homegrown evaluate`. Goes in: a model, a suite and perhaps another model. Comes out: one table, printed and kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.digests import digest_of
from pipeline.errors import ConfigurationError
from pipeline.evaluations.answers import FOLDER, open_answers
from pipeline.evaluations.comparison import Difference, compare
from pipeline.evaluations.figures import Figure
from pipeline.evaluations.measures import Measure

SUITES = ("applications", "multiple-choice", "judge", "memorisation", "safety")
EVALUATIONS = Path("data") / "evaluations"
TOKENS = Path("data") / "tokens"
DOCUMENTS = Path("data") / "documents" / "clean" / "documents.parquet"
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    suite: str
    data: Path | None
    limit: int | None
    judge_model: str
    judge_url: str
    judge_timeout: float
    repeats: int


def show(request: Request, model: str | None, against: str | None, *, as_json: bool) -> None:
    """Print the table of the suite; every mistake of the user is a ConfigurationError."""
    if request.suite not in SUITES:
        raise ConfigurationError(f"--suite {request.suite}: expected one of {', '.join(SUITES)}")
    if request.limit is not None and request.limit < 1:
        raise ConfigurationError(f"--limit {request.limit}: expected 1 or more")
    if request.suite == "applications":
        if against:
            raise ConfigurationError("--against compares item by item, which the applications' tables do not hold")
        _show_applications(model, as_json=as_json)
        return
    if model is None:
        raise ConfigurationError(f"--suite {request.suite} needs a MODEL: a registered name or the folder of an export")
    ours = _measure(request, model)
    differences = compare(ours, _measure(request, against)) if against else []
    figures = [measure.figure() for measure in ours]
    _record(request.suite, model, figures)
    if as_json:
        print(
            json.dumps(
                {
                    "model": model,
                    "suite": request.suite,
                    "table": [
                        {**asdict(figure), "data": measure.data} for figure, measure in zip(figures, ours, strict=True)
                    ],
                    "against": against,
                    "differences": [{**asdict(d), "verdict": d.verdict} for d in differences],
                },
                indent=2,
            )
        )
        return
    print("\n".join(table_lines(figures)))
    if differences:
        print(f"\n{model} less {against}, paired by item")
        print("\n".join(_difference_lines(differences)))


def table_lines(figures: list[Figure]) -> list[str]:
    """One line for each figure: how many items, the value with its 95 % interval, and the baseline."""
    rows = [("figure", "n", "value", "95 % interval", "baseline")]
    for f in figures:
        baseline = "" if f.baseline is None else f"{f.baseline:.4f} {f.baseline_name}".rstrip()
        rows.append((f.name, f"{f.n:,}", f"{f.value:.4f}", f"{f.low:.4f} – {f.high:.4f}", baseline))
    return _aligned(rows)


def _difference_lines(differences: list[Difference]) -> list[str]:
    rows = [
        (d.name, f"{d.n:,}", f"{d.difference:+.4f}", f"{d.low:+.4f} – {d.high:+.4f}", d.verdict) for d in differences
    ]
    return _aligned([("figure", "n", "difference", "95 % interval", ""), *rows])


def _aligned(rows: list[tuple[str, str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip() for a, b, c, d, e in rows
    ]


def _show_applications(model: str | None, *, as_json: bool) -> None:
    from pipeline.evaluations import applications

    found = applications.tables(EVALUATIONS, model)
    if as_json:
        print(json.dumps({name: [asdict(figure) for figure in figures] for name, figures in found.items()}, indent=2))
        return
    prefix = "" if model else "{}: "
    figures = [replace(f, name=prefix.format(name) + f.name) for name, rows in found.items() for f in rows]
    print("\n".join(table_lines(figures)))


def _measure(request: Request, model: str) -> list[Measure]:
    """What the suite finds for one model."""
    from pipeline.evaluations.subject import Subject, open_subject, require_writer

    subject: Subject = open_subject(model)
    require_writer(subject)
    suites: dict[str, Callable[[Request, Subject], list[Measure]]] = {
        "multiple-choice": _multiple_choice,
        "judge": _judge,
        "memorisation": _memorisation,
        "safety": _safety,
    }
    return suites[request.suite](request, subject)


def _multiple_choice(request: Request, subject: Any) -> list[Measure]:
    from pipeline.evaluations import multiple_choice

    tasks = [task.first(request.limit) for task in multiple_choice.read_tasks(_data(request))]
    found, tokens, seconds = [], 0, 0.0
    for task in tasks:
        for id_, reason in list(task.rejected.items())[:5]:
            _say(f"{task.name}: line {id_} is left out: {reason}")
        if task.rejected:
            _say(f"{task.name}: {len(task.rejected):,} of {len(task.rejected) + len(task.items):,} are left out")
        with open_answers(_key(request, subject, task.digest)) as answers:
            measures, pace = multiple_choice.evaluate(
                subject.loaded.model, subject.splitter, task, answers, _progress(task.name, "items")
            )
        tokens, seconds = tokens + pace.tokens, seconds + pace.seconds
        found += measures
    if tokens:
        _say(f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")
    return found


def _judge(request: Request, subject: Any) -> list[Measure]:
    from pipeline.evaluations import judge

    who = judge.Judge(request.judge_model, request.judge_url, request.repeats, request.judge_timeout)
    tasks, rejected = judge.read_tasks(_data(request))
    if rejected:
        _say(f"{len(rejected):,} records are left out, the first {next(iter(rejected.items()))}")
    tasks = tasks[: request.limit]
    key = _key(request, subject, digest_of([asdict(task) for task in tasks]), who.model, judge.OPTIONS)
    with open_answers(key) as answers:
        judge.respond(subject.loaded, tasks, answers)
        responses = FOLDER / f"{key}-responses.json"
        judge.save_responses(tasks, answers, responses)
        _say(f"the responses are in {responses}")
        measures, note = judge.evaluate(who, tasks, answers, _progress("judge", "answers"))
    _say(note)
    return measures


def _memorisation(request: Request, subject: Any) -> list[Measure]:
    from pipeline.evaluations import memorisation
    from pipeline.manifest import read

    canaries = memorisation.read_canaries(request.data) if request.data else []
    key = _key(request, subject, read(TOKENS).digest, digest_of([asdict(canary) for canary in canaries]))
    with open_answers(key) as answers:
        found = [memorisation.exposure(subject, canaries, answers)] if canaries else []
        found.append(
            memorisation.extraction(subject, TOKENS, answers, request.limit, _progress("extraction", "documents"))
        )
    return found


def _safety(request: Request, subject: Any) -> list[Measure]:
    from pipeline.evaluations import safety

    prompts = safety.read_prompts(request.data)[: request.limit]
    settings = [safety.SAMPLES, safety.NEW_TOKENS, safety.TEMPERATURE]
    with open_answers(_key(request, subject, digest_of(prompts), settings)) as answers:
        return safety.evaluate(subject, prompts, answers, DOCUMENTS, _progress("safety", "texts"))


def _data(request: Request) -> Path:
    if request.data is None:
        raise ConfigurationError(f"--suite {request.suite} needs --data PATH; see docs/evaluation.md")
    return request.data


def _key(request: Request, subject: Any, *settings: Any) -> str:
    """What an evaluation's answers depend on, in one digest: the model, the settings, and the suite's code."""
    from pipeline.import_closure import code_of

    code = code_of(f"pipeline.evaluations.{request.suite.replace('-', '_')}")
    return f"{request.suite}-{digest_of([subject.digest, code, *settings])[:32]}"


def _progress(what: str, unit: str) -> Callable[[int, int], None]:
    """A line every ten seconds."""
    last = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            _say(f"{what}: {done:,} of {total:,} {unit}")

    return say


def _record(suite: str, model: str, figures: list[Figure]) -> None:
    """Leave the figures for MLflow, which need not be there now."""
    from pipeline.tracking import spool

    record = spool.open_record("stage", f"evaluate-{suite}", params={"suite": suite, "model": model})
    allowed = str.maketrans(dict.fromkeys(",:()", " "))  # MLflow takes letters, digits and few signs in a name
    record.metrics({" ".join(f.name.translate(allowed).split()): f.value for f in figures})
    record.end("FINISHED")
    spool.start_delivery()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
