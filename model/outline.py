"""Within `without_numbers` a network is built with its shapes alone: nothing is drawn, and no memory taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """Leaves out torch.nn.init: to draw numbers for tensors that hold none, torch would load its compiler (0.9 s)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        """The first argument of an initialisation as it is; every other function's result."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Within the block modules are built on the meta device; `load_state_dict(…, assign=True)` gives them numbers."""
    with torch.device("meta"), _Undrawn():
        yield
