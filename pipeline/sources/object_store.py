"""Goes in: an fsspec address such as s3://bucket/prefix. Comes out: its files by name, each here while it is read.

One object at a time is copied to the scratch folder and taken away again, so a bucket larger than the disk can be read.
Who may read it is the library's business: AWS_* variables, a profile, an instance's role. None of it is in params.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError, DependencyError, IntegrityError
from pipeline.sources.locations import DOTTED, Found
from pipeline.sources.rows import BLOCK_BYTES

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_LOCAL = ("file", "local")


def objects_of(address: str, *, key: str, scratch: Path) -> Iterator[Found]:
    """Every object below the address, sorted by name; a copy of it lies at `path` until the next is asked for.

    ConfigurationError if nothing is there, DependencyError if the store does not answer, IntegrityError if an object is
    replaced between the listing and the reading.
    """
    system, root = _connected(address, key)
    shown = address.split("?")[0]
    listed = _asked(lambda: system.find(root, detail=True), shown, key)
    if not isinstance(listed, dict):  # adlfs names a single object, and says nothing of it
        listed = {name: _asked(partial(system.info, name), shown, key) for name in listed}
    found = {name: (details.get("size"), _etag(details)) for name, details in listed.items()}
    del listed  # much is said of each object, and there may be millions
    if not found:
        raise ConfigurationError(f"params.yaml: {key}: nothing is stored at {shown}; correct the address")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="objects-") as folder:
        for name in sorted(found):
            short = name.removeprefix(root).strip("/") or name.rpartition("/")[2]
            if name.endswith("/") or not short:
                continue  # what stores keep for an empty folder
            copy = Path(folder) / "object"
            if any(part.startswith(".") for part in short.split("/")):
                yield Found(short, str(copy), DOTTED)
                continue
            etag = _copy(system, name, copy, shown, key)
            size, etag_before = found[name]
            if size not in (None, copy.stat().st_size) or (etag and etag_before and etag != etag_before):
                raise IntegrityError(
                    f"{shown}: an object changed while it was read; run again when nothing writes to it"
                )
            yield Found(short, str(copy), fleeting=True)
            copy.unlink(missing_ok=True)


def _connected(address: str, key: str) -> tuple[Any, str]:
    import fsspec

    scheme = address.partition("://")[0]
    if scheme in _LOCAL:
        raise ConfigurationError(f"params.yaml: {key}: {scheme}:// is this machine; give the path without it")
    try:
        return fsspec.url_to_fs(address, use_listings_cache=False)  # type: ignore[no-any-return]
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        how = f"pip install 'homegrown[{extra}]'" if extra else f"install what fsspec asks for {scheme}://"
        raise DependencyError(f"params.yaml: {key}: {scheme}:// needs a package; {how}") from error
    except ValueError as error:
        raise ConfigurationError(f"params.yaml: {key}: {scheme}:// is no address that can be read") from error


def _asked(question: Any, shown: str, key: str) -> Any:
    """The store's answer; its many exceptions become ours, without their texts, which may hold keys."""
    try:
        return question()
    except FileNotFoundError as error:
        raise ConfigurationError(f"params.yaml: {key}: nothing is stored at {shown}; correct the address") from error
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, PermissionError) or "Credential" in kind or "Authentication" in kind:
            raise DependencyError(
                f"{shown}: the store refuses access; check the credentials in your environment"
            ) from error
        if isinstance(error, ValueError) or kind == "ParamValidationError":
            raise ConfigurationError(f"params.yaml: {key}: {shown} is no address that can be read") from error
        raise DependencyError(f"{shown}: the store does not answer ({kind}); try again later") from error


def _copy(system: Any, name: str, copy: Path, shown: str, key: str) -> str:
    """Copy an object; its ETag, where the store gives one."""
    # Only the store's own errors are the store's: a full disk here is another matter.
    source = _asked(lambda: system.open(name, "rb", cache_type="readahead"), shown, key)
    with source, copy.open("wb") as target:
        while block := _asked(lambda: source.read(8 * BLOCK_BYTES), shown, key):
            target.write(block)
        return _etag(getattr(source, "details", None) or {})


def _etag(details: Mapping[str, Any]) -> str:
    """What an object's content is known by, spelled one way; "" where the store does not say."""
    found = details.get("ETag") or details.get("etag") or ""
    return str(found).removeprefix("W/").strip('"')
