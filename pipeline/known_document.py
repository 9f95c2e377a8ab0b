"""A document that an earlier run read, and whose text is read again only where somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.documents import Document


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """All of a `Document` but its text. Nothing says that its file is what it was, but that it looks so from outside:
    whoever writes the text takes it from `document`."""

    id: str
    source: str
    name: str
    licence: str
    origin: str
    text_characters: int
    _read: Callable[[], Document] = field(repr=False, compare=False)

    @property
    def n_characters(self) -> int:
        """What `n_characters` says of the document."""
        own = len(self.id) + len(self.source) + len(self.name) + len(self.licence) + len(self.origin)
        return own + self.text_characters

    def document(self) -> Document:
        """The document, read from its file; IntegrityError if that gives another one now."""
        return self._read()
