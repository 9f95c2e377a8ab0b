"""Goes in: new values for params.yaml, or the name of a preset. Comes out: the file with them, if all of it is right.

Comments and layout are kept; see pipeline/params.py for what the file must be like.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.params import BASE_MODEL, SECTIONS, STAGES, ParamsFile, mapping, nearest, outlined
from pipeline.yaml_file import plain, read_to_rewrite, rewrite, value_of


def set_values(path: Path, assignments: Mapping[str, str], preset: str | None = None) -> ParamsFile:
    """Set values, say `pretrain.steps` to `50`, where the values in force stand: in the preset if it has the key.

    A preset, if one is given, is put in force first: the one line `preset:`. A value is read as YAML. Comments and
    layout are kept. All is set before the file is checked as a whole, and it is replaced only if it passes; unknown
    keys and presets are refused with the nearest one. Returns the file as it is then.
    """
    document, file = _changed(path, preset, assignments)
    rewrite(path, document)
    return file


def preview(path: Path, preset: str | None, assignments: Mapping[str, str]) -> ParamsFile:
    """The file as `set_values` would leave it, which nobody writes."""
    return _changed(path, preset, assignments)[1]


def _changed(path: Path, preset: str | None, assignments: Mapping[str, str]) -> tuple[Any, ParamsFile]:
    """The file with what was asked for, in the form that can be written, and as it is then found right."""
    document = read_to_rewrite(path)
    if preset is not None and isinstance(document, dict):
        _choose(document, preset, path)
    outlined(plain(document), path)
    for key, text in assignments.items():
        target, last = _place(document, key, path)
        target[last] = value_of(text, key)
    file = outlined(plain(document), path)
    file.check()
    return document, file


def _choose(document: Any, name: str, path: Path) -> None:
    presets = list(mapping(document, "presets", path))
    if name not in presets:
        raise ConfigurationError(f"{path}: there is no preset {name!r}{nearest(name, presets)}")
    document["preset"] = name


def _place(document: Any, key: str, path: Path) -> tuple[Any, str]:
    """The mapping that holds the value in force of a dotted key, and the key's last part."""
    parts = key.split(".")
    if key == "models":
        raise ConfigurationError(
            f"models: is {BASE_MODEL} and the entries of finetunes, so the two change together, in {path}; to make "
            f"less, name it, say `homegrown run export@{BASE_MODEL}`"
        )
    if key == "preset":
        raise ConfigurationError("preset: is chosen by --preset NAME")
    if key in SECTIONS:
        raise ConfigurationError(f"{key}: expected SECTION.KEY{nearest('', document[key])}")
    if len(parts) < 2 or parts[0] not in SECTIONS:
        sections = [section for section in SECTIONS if section != "preset"]
        raise ConfigurationError(f"{key}: expected SECTION.KEY{nearest(parts[0], sections)}")
    target = document
    for depth, part in enumerate(parts[:-1]):
        if not isinstance(target, dict) or part not in target:
            place = ".".join(parts[:depth]) or str(path)
            raise ConfigurationError(f"{place}: unknown key {part!r}{nearest(part, target)}")
        target = target[part]
    last = parts[-1]
    stage = "finetune" if parts[0] == "finetunes" else parts[0]
    in_preset = document["presets"][document["preset"]].get(stage) if stage in STAGES else None
    if in_preset and last in in_preset:
        target = in_preset
    if stage == "finetune" and len(parts) == 3 and isinstance(target, dict) and last in _optional_keys(stage):
        return target, last  # an entry need not say what it leaves as it is
    of_stages = isinstance(target, dict) and isinstance(target.get(last), dict) and parts[0] not in STAGES
    if not isinstance(target, dict) or last not in target or of_stages:
        raise ConfigurationError(f"{'.'.join(parts[:-1])}: unknown key {last!r}{nearest(last, target or [])}")
    return target, last


def _optional_keys(stage: str) -> set[str]:
    """The settings of a stage that have a default."""
    kind = importlib.import_module(f"pipeline.stages.{stage}").Params
    return {f.name for f in fields(kind) if f.default is not MISSING}
