"""The `homegrown` command: one thin function per subcommand, nothing imported before it is needed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import BUG_EXIT_CODE, ConfigurationError, HomegrownError

app = typer.Typer(
    name="homegrown",
    help="Your own language model, from raw text to a registered model.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages, or corpus, training, release, all; what they need runs too. [default: all]"),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Switch params.yaml to this preset first.")] = None,
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of params.yaml first.")
    ] = None,
    force: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Run this stage even if unchanged.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Bring the pipeline up to date: what has changed runs, the rest comes from the cache."""
    from flows import launch

    settings = {"preset": preset} if preset is not None else {}
    launch.run(_root(), targets or [], force or [], settings | _assignments(set_values), as_json=as_json)


@app.command()
def plan(
    preset: Annotated[str | None, typer.Option(help="Plan as if params.yaml were switched to this preset.")] = None,
    set_values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Plan as if this key were set.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what pretraining will take: parameters, memory, computing, time and disk; refuse what does not fit."""
    from flows import planning

    planning.show(_root(), preset, _assignments(set_values), as_json=as_json)


@app.command()
def ui(
    stop: Annotated[bool, typer.Option("--stop", help="Stop both servers.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Print the addresses and return.")] = False,
    debug: Debug = False,
) -> None:
    """Start the MLflow and Prefect servers on loopback and print their addresses."""
    from flows import interfaces

    if stop:
        interfaces.stop(_root())
    else:
        interfaces.show(_root(), stay=not background)


@app.command()
def schedule(
    cron: Annotated[str, typer.Option(help='When to run, as in "0 2 * * *": every night at two.')],
    timezone: Annotated[str | None, typer.Option(help="Such as Europe/Berlin. [default: this machine's]")] = None,
    targets: Annotated[list[str] | None, typer.Argument(help="As for run. [default: all]")] = None,
    debug: Debug = False,
) -> None:
    """Run the pipeline on a schedule, until Ctrl-C."""
    from flows import schedule as schedules

    schedules.serve(_root(), cron, timezone, targets or [])


@app.command(name="serve-schedule", hidden=True)
def serve_schedule(
    cron: Annotated[str, typer.Option()],
    timezone: Annotated[str | None, typer.Option()] = None,
    targets: Annotated[list[str] | None, typer.Argument()] = None,
    debug: Debug = False,
) -> None:
    """The same as `schedule`."""
    schedule(cron, timezone, targets, debug)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    model: Annotated[str, typer.Option(help="A registered model.")] = "base",
    about: Annotated[str | None, typer.Option("--input", help="What an instructed model's prompt is about.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 64,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token. [default: 0.7]")] = None,
    top_k: Annotated[int, typer.Option(help="Choose among this many likeliest tokens; 0: among all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest that together reach this share.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Choose among those this times as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: make what was written less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text.")] = None,
    weights: Annotated[str, typer.Option(help="float32, or bfloat16 or int8: faster, less exact.")] = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Let the registry's champion go on from a prompt."""
    _root()
    from pipeline.tracking import registry

    champion = registry.load_champion(model)
    if weights != "float32":
        champion = champion.in_fewer_bits(weights)
    instructed = champion.task == "instructions"
    written = champion.generate(
        [prompt],
        inputs=None if about is None else [about],
        max_new_tokens=max_new_tokens,
        temperature=(0.0 if instructed else 0.7) if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop or [],
        seed=seed,
    )
    print(written[0] if instructed else prompt + written[0])


@app.command()
def chat(
    model: Annotated[str, typer.Option(help="A registered model that was fine-tuned to answer.")] = "assistant",
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Said first, where a conversation has no system turn first.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to write at most, in each answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Choose among this many likeliest tokens; 0: among all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest that together reach this share.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Choose among those this times as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: make what was written less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End each answer before this text.")] = None,
    weights: Annotated[str, typer.Option(help="float32, or bfloat16 or int8: faster, less exact.")] = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Talk with the registry's champion; off a terminal, answer a JSON conversation from each line of the input."""
    _root()
    from flows import chatting
    from pipeline.loaded_model import Writing

    how = Writing(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop or [],
        seed=seed,
    )
    chatting.talk(model, weights, system, how)


@app.command()
def classify(
    text: Annotated[str, typer.Argument(help="The text to put into a class.")],
    model: Annotated[str, typer.Option(help="A registered classifier.")] = "spam",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let the registry's champion say what kind of text this is."""
    _root()
    from pipeline.tracking import registry

    answer = registry.load_champion(model).classify([text])[0]
    if as_json:
        print(json.dumps(answer))
        return
    odds = " · ".join(f"{label} {p:.1%}" for label, p in sorted(answer["probabilities"].items(), key=lambda x: -x[1]))
    print(f"{answer['label']} ({odds})")


@app.command()
def evaluate(
    model: Annotated[str | None, typer.Argument(help="A registered model, or the folder of an export.")] = None,
    suite: Annotated[
        str, typer.Option(help="applications, multiple-choice, judge, memorisation or safety.")
    ] = "applications",
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Questions, instructions, canaries or prompts.")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="MODEL", help="Compare with this model, item by item.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N items of each set.")] = None,
    judge_model: Annotated[str, typer.Option(help="The model that judges, as Ollama names it.")] = "llama3",
    judge_url: Annotated[str, typer.Option(help="Where Ollama listens.")] = "http://localhost:11434",
    judge_timeout: Annotated[float, typer.Option(min=1, help="Seconds that one judgement may take.")] = 120.0,
    repeats: Annotated[int, typer.Option(help="How often each response is judged.")] = 3,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score a model beyond what every run measures; stopped, the same command goes on."""
    data = data and data.resolve()
    if model and Path(model).is_dir():
        model = str(Path(model).resolve())
    if against and Path(against).is_dir():
        against = str(Path(against).resolve())
    _root()
    from flows import evaluating

    request = evaluating.Request(suite, data, limit, judge_model, judge_url, judge_timeout, repeats)
    evaluating.show(request, model, against, as_json=as_json)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="A registered model.")],
    version: Annotated[int, typer.Argument(min=1, help="The version to make champion.")],
    debug: Debug = False,
) -> None:
    """Make a version champion by hand, whatever the present champion's figures are."""
    _root()
    from pipeline.tracking import registry

    registry.promote(model, version)
    print(f"{model}: version {version} is the champion")


@app.command()
def trace(
    doc: Annotated[str | None, typer.Option("--doc", metavar="ID", help="A record's id, or how it begins.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="What a record contains, or all of it.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say where a record came from, what became of it, and which models saw it."""
    _root()
    from flows import provenance

    provenance.show(doc, text, as_json=as_json)


@app.command()
def erase(
    doc: Annotated[
        list[str] | None, typer.Option("--doc", metavar="ID", help="A record's id; may be repeated.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Erase every record that contains this.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="After the next run: remove old copies from the cache.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Take records out of the corpus for good, and mark the registered versions that saw them."""
    root = _root()
    from flows import provenance

    if purge:
        provenance.purge(root, yes=yes)
    else:
        provenance.erase(doc or [], text, yes=yes)


@app.command()
def quarantine(
    stage: Annotated[str, typer.Argument(help="ingest or clean.")] = "clean",
    reason: Annotated[str | None, typer.Option(help="Only reasons that begin like this, say near.")] = None,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="Print the text of the first N as well.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List what a stage turned away and why; texts only on request."""
    from pipeline.quarantine import listing

    for line in listing(_root(), stage, reason or "", show, as_json=as_json):
        print(line)


@app.command()
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say what is here, what is missing, and the command that mends it."""
    from flows import doctor as surgery

    surgery.examine(_root(), as_json=as_json)


def main() -> None:
    """Run the command; every error of ours is one line and its own exit code."""
    code = execute(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if flow := sys.modules.get("flows.pipeline_flow"):
        # Left to itself, Prefect waits for ever for a server that has died.
        from flows import servers

        with contextlib.suppress(HomegrownError, KeyboardInterrupt):
            flow.deliver(30.0 if servers.find(Path.cwd(), servers.PREFECT) else 0.0)
        os._exit(code)
    sys.exit(code)


def execute(arguments: list[str]) -> int:
    """Run the command with these arguments; its exit code."""
    if "--debug" in arguments:
        os.environ["HOMEGROWN_DEBUG"] = "1"  # for the stages
    try:
        code = app(arguments or ["--help"], prog_name="homegrown", standalone_mode=False)
        if code == 130:  # what Typer makes of a KeyboardInterrupt, without a word
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except HomegrownError as error:
        return _refuse(error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        print("homegrown: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # Typer's own complaints about the command line, whichever module they are defined in.
        if callable(complaint := getattr(error, "format_message", None)):
            message = complaint()
            print(f"homegrown: {message[:1].lower()}{message[1:].rstrip('.')}; see homegrown --help", file=sys.stderr)
            return ConfigurationError.exit_code
        return _confess(error, arguments)


def _refuse(error: HomegrownError, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
    print(f"homegrown: {error}", file=sys.stderr)
    stopped_by = getattr(error, "stopped_by", None)
    if stopped_by is None:
        return error.exit_code
    print(f"homegrown: go on with: homegrown {shlex.join(arguments)}", file=sys.stderr)
    return error.exit_code if getattr(error, "saved", False) else 128 + int(stopped_by)


def _confess(error: Exception, arguments: list[str]) -> int:
    """A bug of ours: one line without the exception's text, which may quote data; the traceback in a file."""
    from flows.project import STATE

    log = STATE / "logs" / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    where = f"the traceback is in {log}"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        where = "run again with --debug for the traceback"
    if "--debug" in arguments:
        traceback.print_exception(error)
    print(f"homegrown: {type(error).__name__}, a fault of the program; {where}, please report it", file=sys.stderr)
    return BUG_EXIT_CODE


def _assignments(set_values: list[str] | None) -> dict[str, str]:
    """The keys and values of every --set."""
    settings = {}
    for assignment in set_values or []:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"--set {assignment}: expected KEY=VALUE, such as pretrain.steps=50")
        settings[key] = value
    return settings


def _root() -> Path:
    """Go to the project's folder, so that every path below means the same wherever the command was typed."""
    from flows.project import project_root

    root = project_root(Path.cwd())
    os.chdir(root)
    return root


if __name__ == "__main__":
    main()
