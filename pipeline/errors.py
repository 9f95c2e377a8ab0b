"""What can go wrong, as a tree; each leaf carries the exit code (after sysexits.h) a shell or a scheduler can act on.

    HomegrownError
    ├── ConfigurationError  64  the user's settings: a typo, an unknown preset, a folder that is not there
    ├── DataError           65  the data: nothing left of it, or a check that fails
    ├── DependencyError     69  a service or an optional package is not there
    ├── InputOutputError    74  disk full, no permission, out of memory
    ├── TryAgainError       75  stopped half-way with everything saved, or somebody else is at it
    ├── GateError           76  a model is not good enough to pass
    └── IntegrityError      77  bytes are not what their digest says

A bug of ours is any other exception, and leaves with 70.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUG_EXIT_CODE = 70


class HomegrownError(Exception):
    """One line for the person at the terminal: what, where, and what to do about it."""

    exit_code = BUG_EXIT_CODE


class ConfigurationError(HomegrownError):
    """The user's settings cannot be used as they are."""

    exit_code = 64


class DataError(HomegrownError):
    """The data cannot be used: none of it is left, or a check of it fails."""

    exit_code = 65


class DependencyError(HomegrownError):
    """A service or an optional package that is needed does not answer."""

    exit_code = 69


class InputOutputError(HomegrownError):
    """The machine ran out of something: disk, memory, descriptors, permission."""

    exit_code = 74


class TryAgainError(HomegrownError):
    """Stopped before the end with everything saved; the same command goes on from there."""

    exit_code = 75


class GateError(HomegrownError):
    """A model did not pass what it has to pass."""

    exit_code = 76


class IntegrityError(HomegrownError):
    """Bytes differ from what their recorded digest promises."""

    exit_code = 77


BY_EXIT_CODE: dict[int, type[HomegrownError]] = {
    kind.exit_code: kind
    for kind in (
        ConfigurationError,
        DataError,
        DependencyError,
        InputOutputError,
        TryAgainError,
        GateError,
        IntegrityError,
    )
}

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file would exceed the allowed size (ulimit -f); raise the limit and run again",
    errno.EMFILE: "too many open files (ulimit -n); raise the limit and run again",
    errno.EACCES: "permission denied; give yourself access to it and run again",
    errno.EROFS: "the file system is read-only; mount it writable and run again",
}
_WITHOUT_MEMORY = ("could not create a primitive", "could not create a memory", "could not create a memory object")
"""What oneDNN says, and no more, when it gets no memory; with more words it is a fault."""


def is_of_the_machine(error: Exception) -> bool:
    """Whether it has an errno, so that the machine failed and not the bytes: no descriptor is left, say."""
    return isinstance(error, OSError) and bool(error.errno) and not isinstance(error, FileNotFoundError)


@contextmanager
def machine_errors(what: str, where: Path | str = "") -> Iterator[None]:
    """Turn the operating system's and the libraries' out-of-something errors into ours, naming `what` was being done.

    Libraries wrap a full disk in many ways (torch raises RuntimeError, pyarrow OSError without errno), so the errno is
    looked for first and the message after. Anything else passes through unchanged, for it is a bug; so does a file that
    is not there, unless it is `where` itself: what of the user's may be missing is looked for before it is opened.
    """
    try:
        yield
    except HomegrownError:
        raise
    except MemoryError as error:
        raise InputOutputError(
            f"{what}: out of memory; lower the batch size or close other programs, then run again"
        ) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not (where and str(error.filename) == str(where)):
            raise
        place = error.filename or where
        advice = _ADVICE.get(error.errno or 0) or error.strerror or type(error).__name__
        raise InputOutputError(f"{what}: {place}: {advice}" if place else f"{what}: {advice}") from error
    except RuntimeError as error:
        message = str(error)
        if "No space left" in message or "file write failed" in message:
            raise InputOutputError(f"{what}: {where}: {_ADVICE[errno.ENOSPC]}") from error
        if "can't start new thread" in message:
            raise InputOutputError(
                f"{what}: no thread can be started; raise the limits on memory and processes (ulimit -v, ulimit -u), "
                "then run again"
            ) from error
        if "out of memory" in message or "can't allocate memory" in message or message in _WITHOUT_MEMORY:
            raise InputOutputError(
                f"{what}: out of memory; lower pretrain.batch_size or use a smaller model, then run again"
            ) from error
        raise
