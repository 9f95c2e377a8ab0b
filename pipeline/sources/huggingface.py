"""Goes in: a data set of the Hugging Face hub, or a local folder in the hub's layout. Comes out: its rows in order.

The library `datasets` (the extra `hub`) reads the layout and the README's configuration; it runs no code of the data
set's. From the hub a commit must be named, so that the same params mean the same data.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigurationError, DataError, DependencyError
from pipeline.sources.rows import Row

_ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


def rows_of(
    place: str, split: str, configuration: str = "", *, key: str, columns: frozenset[str] | None = None
) -> Iterator[Row]:
    """The rows of one split, numbered from 1; of a class that is a number there, the name.

    DependencyError without the library or the hub, ConfigurationError for an address that is none, DataError for files
    that do not read as the layout says.
    """
    local = Path(place).is_dir()
    on_hub = _ON_HUB.fullmatch(place)
    if not local and not on_hub:
        raise ConfigurationError(
            f"params.yaml: {key}: {place} is no folder, and no data set of the hub as OWNER/NAME@COMMIT (40 digits)"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"params.yaml: {key}: reading the hub's layout needs a package; pip install 'homegrown[hub]'"
        ) from error
    datasets.disable_progress_bars()
    # It warns of a README without a configuration, which most folders have.
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    name, revision = (str(Path(place).resolve()), None) if local else (on_hub[1], on_hub[2])  # type: ignore[index]
    try:
        # Streamed: the library's cache would keep a second copy of everything.
        found = datasets.load_dataset(name, configuration or None, revision=revision, split=split, streaming=True)
        if columns is not None and found.column_names:
            found = found.select_columns([column for column in found.column_names if column in columns])
        features = found.features or {}
        names = {column: kind.names for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        for number, values in enumerate(found, start=1):
            for column, classes in names.items():
                label = values[column]
                values[column] = classes[label] if label is not None and label >= 0 else None
            yield Row(values, 0, f":{number}")
    except (OSError, ConnectionError) as error:
        raise DependencyError(f"{place}: cannot be read ({type(error).__name__}); is it there, and the hub?") from error
    except Exception as error:  # the library's own, pyarrow's and fsspec's; their texts may quote the data
        raise DataError(
            f"{place}: its split {split!r} cannot be read ({type(error).__name__}); look at its README and files; say "
            "which `configuration` or `hub_split`, or name the files themselves: then a bad record costs itself alone"
        ) from error
