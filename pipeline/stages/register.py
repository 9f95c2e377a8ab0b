"""Goes in: every exported model. Comes out: the registry holds each and knows its champion; a page to judge them by.

DVC runs this stage every time: the registry is no file that DVC could watch, so whether it is complete is asked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import lineage, run_page
from pipeline.digests import digest_of
from pipeline.errors import GateError
from pipeline.evaluations.figures import SAMPLES_FILE
from pipeline.manifest import read, verify
from pipeline.report import Report
from pipeline.run_page import Judged

if TYPE_CHECKING:
    from pipeline.tracking.registry import Version

READS = {"exports": "data/exports", "evaluations": "data/evaluations", "checkpoints": "data/checkpoints"}
WRITES: dict[str, str] = {}

SUMMARY = Path(".homegrown/registered.json")
# No stage reads it, and it names versions of a registry: a page for people, and no artefact.
RUN_PAGE = Path("data/reports/run")
_LINKS = {"Data report": "../data_report/index.html", "Data Docs": "../data_docs/index.html"}
# What the served model imports; a server made elsewhere from the registry installs these.
_REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "pydantic",
    "rich",
    "ruamel.yaml",
    "rustbpe",
    "safetensors",
    "tiktoken",
    "torch",
)


@dataclass(frozen=True)
class Params:
    """Under which names models are registered."""

    prefix: str
    """Put before every model's name in the registry; empty for none."""
    maximum_forgetting: float | None
    """A fine-tuned model that predicts the base's held-out text this many bits per byte worse than before is refused;
    empty for no limit."""


def run(
    params: Params, *, exports: Path, evaluations: Path, checkpoints: Path, models: list[str], report: Report
) -> None:
    """Register every model that the registry does not have by digest, and let each new one meet its champion."""
    from pipeline.tracking import glance
    from pipeline.tracking.registry import write_summary

    if params.maximum_forgetting is not None:
        for name in models:
            _refuse_forgetful(name, read(checkpoints / name).facts.get("forgetting"), params.maximum_forgetting)
    wanted = digest_of({"prefix": params.prefix, "exports": {name: verify(exports / name).digest for name in models}})
    versions = glance.recall(wanted) if (RUN_PAGE / run_page.PAGE).exists() else None
    if versions is None:
        versions = _registered(params, exports, evaluations, checkpoints, models, report)
        glance.remember(wanted, versions)
    write_summary(versions, SUMMARY)
    for last in versions:
        state = "registered" if last.is_new else "already registered"
        report.note(f"{last.name} version {last.version} {state}, {' '.join(last.aliases) or 'no alias'}: {last.note}")
    report.metrics({"registered": sum(v.is_new for v in versions), "models": len(versions)})


def _registered(
    params: Params, exports: Path, evaluations: Path, checkpoints: Path, models: list[str], report: Report
) -> list[Version]:
    """Each model's version in MLflow, made where there was none; and the page that shows them all."""
    from pipeline.tracking.connection import connect
    from pipeline.tracking.registry import register

    client = connect()
    commit, changed = lineage.commit_id()
    code = lineage.code_digest()
    versions = []
    for name in models:
        export = exports / name
        ancestors = lineage.ancestors(export)
        tags = {f"homegrown.lineage.{place.replace('/', '.')}": digest for place, digest in ancestors.items()}
        tags |= {
            "homegrown.git_commit": commit,
            "homegrown.git_changed": str(changed),
            "homegrown.code": code,
            "homegrown.params": digest_of({**_params_of(export)}),
            "homegrown.task": str(read(export).facts["task"]),
        }
        versions.append(
            register(
                params.prefix + name,
                export,
                samples=evaluations / name / SAMPLES_FILE,
                tags=tags,
                code=lineage.CODE,
                requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
                client=client,
            )
        )
    judged = [_judged(name, version, client) for name, version in zip(models, versions, strict=True)]
    if run_page.write(RUN_PAGE, models=judged, evaluations=evaluations, checkpoints=checkpoints, links=_LINKS):
        report.keep(RUN_PAGE, RUN_PAGE.name)
        report.note(f"how the models learned and what they reach: {RUN_PAGE / run_page.PAGE}")
    return versions


def _refuse_forgetful(name: str, forgetting: Mapping[str, float] | None, limit: float) -> None:
    """GateError if fine-tuning cost more of what the base knew than is allowed."""
    if forgetting is None:
        return
    forgot = forgetting["bits_per_byte_after"] - forgetting["bits_per_byte_before"]
    if not forgot <= limit:
        raise GateError(
            f"register: {name} forgot {forgot:.3f} bits per byte of the base's text, and register.maximum_forgetting "
            f"is {limit}; train it more gently (a lower rate, LoRA), or raise the limit"
        )


def _judged(name: str, version: Version, client: Any) -> Judged:
    """What the page says of a model; why it is champion is history by the next run, why it is not still holds."""
    from pipeline.tracking.connection import pages_address
    from pipeline.tracking.registry import CHAMPION, champions_samples

    address = f"{pages_address()}/#/models/{version.name}/versions/{version.version}"
    standing = f"{version.name} version {version.version}, {' '.join(version.aliases) or 'no alias'}"
    if CHAMPION in version.aliases:
        return Judged(name, standing, address, [])
    return Judged(name, f"{standing}: {version.note}", address, champions_samples(version.name, client))


def _params_of(export: Path) -> dict[str, object]:
    """The params of the model and of everything that it was made of, by place."""
    places = [place for place in lineage.ancestors(export) if not place.endswith(" - not here")]
    return {place: read(lineage.DATA / place).params for place in places}
