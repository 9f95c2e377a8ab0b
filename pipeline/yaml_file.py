"""Goes in: a YAML file. Comes out: what it holds, as plain values or in a form that keeps its comments and layout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ConfigurationError


def read(path: Path) -> Any:
    """What the file holds, as plain values; ConfigurationError names the file and the line."""
    return plain(_loaded(path, YAML(typ="safe")))


def read_to_rewrite(path: Path) -> Any:
    """The same in a form that `rewrite` can write as it was, changed or not."""
    parser = YAML()
    parser.preserve_quotes = True
    return _loaded(path, parser)


def value_of(text: str, key: str) -> Any:
    """One value as it would be read behind `key:`."""
    try:
        return YAML().load(text)
    except YAMLError as error:
        raise ConfigurationError(f"{key}: {text!r} is not a YAML value") from error


def _loaded(path: Path, parser: YAML) -> Any:
    try:
        return parser.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: not found; run from the project's folder, where dvc.yaml stands") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from error


def rewrite(path: Path, document: Any) -> None:
    """Replace the file, at once and only if anything has changed."""
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(document, text)
    if text.getvalue() == path.read_text(encoding="utf-8"):
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(path)


def plain(value: Any) -> Any:
    """ruamel's round-trip types as the built-in ones."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
