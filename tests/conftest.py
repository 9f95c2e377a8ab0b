"""What every test starts from: torch on one thread, and its float32 products exact."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def plain_torch() -> None:
    """Set what is the same for the whole process, and what training and evaluation change."""
    torch.set_num_threads(1)  # tests run side by side and would starve each other
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session", autouse=True)
def _plain_torch_at_first() -> None:
    plain_torch()


@pytest.fixture(autouse=True)
def _plain_torch_again() -> Iterator[None]:
    yield
    plain_torch()
