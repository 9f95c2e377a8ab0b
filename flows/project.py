"""Goes in: where a person stands. Comes out: the project's folder, and the folder in it for local state."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigurationError

# Servers, locks, logs and what else belongs to this machine; git and DVC know nothing of it.
STATE = Path(".homegrown")


def project_root(start: Path) -> Path:
    """The project's folder: the nearest one, from `start` upwards, that holds dvc.yaml."""
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise ConfigurationError(f"no dvc.yaml in {start} or above it; run homegrown inside the project's folder")
