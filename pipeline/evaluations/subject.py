"""Goes in: a registered model's name, or the folder of an export. Comes out: the model that is evaluated, by digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline import encodings
from pipeline.errors import ConfigurationError
from pipeline.evaluations.multiple_choice import Splitter
from pipeline.loaded_model import LoadedModel, load


@dataclass(frozen=True)
class Subject:
    """A model under evaluation."""

    name: str
    """As it was asked for."""
    loaded: LoadedModel
    digest: str
    """Of its weights and its vocabulary, wherever they lay."""

    @property
    def splitter(self) -> Splitter:
        """How its texts become tokens."""
        return Splitter(encodings.lister(self.loaded.encoding), self.loaded.encoding.eot_token)


def open_subject(name: str) -> Subject:
    """The model, its bytes checked, on the best device; DependencyError if the registry has no such champion."""
    folder = Path(name)
    if folder.is_dir():
        loaded = load(folder)
    elif "/" in name:
        raise ConfigurationError(f"{name}: not a folder; give a registered model's name or the folder of an export")
    else:
        from pipeline.tracking import registry

        loaded = registry.load_champion(name)
    from model.hardware import best_device, choose_float32_products

    choose_float32_products(faster=True)
    digest = _digest(loaded)
    loaded.model.to(best_device())
    return Subject(name, loaded, digest)


def require_writer(subject: Subject) -> None:
    """Refuse a classifier, which has no opinion on texts."""
    if subject.loaded.task == "classification":
        raise ConfigurationError(f"{subject.name} is a classifier; its figures stand in --suite applications")


def _digest(loaded: LoadedModel) -> str:
    digest = hashlib.sha256(encodings.fingerprint(loaded.encoding).encode())
    for name, value in sorted(loaded.model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
