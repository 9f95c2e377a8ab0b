"""Tensors by name in, a safetensors file on the disk out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a new file, from where the tensors lie, while other threads go on; on the disk when this comes back.

    Raises OSError with what the system said, of a full disk say, and leaves no file then.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata)
    except safetensors.SafetensorError as error:
        path.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    # The library writes a file that only its owner may read, and gives it this name.
    path.chmod(mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())
