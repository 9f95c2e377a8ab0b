"""`homegrown schedule`. Goes in: a cron line. Comes out: the pipeline run at those times, one run at a time.

A run that comes due while another is at work is skipped: the run lock, not Prefect, sees to that, so it also holds
against a run that a person has started by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

from flows import servers
from pipeline.errors import ConfigurationError

DEPLOYMENT = "schedule"


def serve(root: Path, cron: str, timezone: str | None, targets: list[str]) -> None:
    """Serve the flow until Ctrl-C. A cron line or a timezone that means nothing is a ConfigurationError."""
    zone = timezone or local_timezone()
    check_cron(cron, zone)
    server = servers.ensure(root, servers.PREFECT, lambda text: print(text, flush=True))
    os.environ.update(servers.prefect_environment(root, server.url))

    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.pipeline_flow import pipeline

    print(f"scheduled: {cron} ({zone}); runs show at {server.url}; Ctrl-C ends and pauses the schedule", flush=True)
    pipeline.serve(  # Ctrl-C makes it return
        name=DEPLOYMENT,
        schedule=Cron(cron, timezone=zone),
        parameters={"targets": targets or None, "force": None},
        paused=False,  # an earlier Ctrl-C has paused the deployment, and paused it would stay
        limit=1,
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    print("\nschedule paused", flush=True)


def check_cron(cron: str, timezone: str) -> None:
    """Refuse what the scheduler would not understand, before anything is started."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from cronsim import CronSim, CronSimError

    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"--timezone {timezone}: no such timezone; expected one such as Europe/Berlin"
        ) from None
    from datetime import UTC, datetime

    try:
        CronSim(cron, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigurationError(
            f'--cron "{cron}": {error}; expected minute, hour, day, month and weekday, such as "0 2 * * *"'
        ) from None


def local_timezone() -> str:
    """This machine's timezone by name, UTC if it has none."""
    if zone := os.environ.get("TZ", "").lstrip(":"):
        return zone
    target = os.path.realpath("/etc/localtime")
    _, found, name = target.partition("zoneinfo/")
    return name if found else "UTC"
