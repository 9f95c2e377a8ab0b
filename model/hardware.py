"""What the machine is, in; device, precision, and whether to compile, out: the fast path, checked before it is taken.

Every choice falls back to what always works: the CPU, float32, no compiler.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import Literal

import torch
from torch import Tensor

from model.float8 import check_float8

Precision = Literal["auto", "float32", "bfloat16", "float8"]
PRECISIONS = ("auto", "float32", "bfloat16", "float8")
Compile = bool | Literal["auto"]

COMPILE_FROM_FLOPS = 2e14
"""Arithmetic of a CPU run from which compiling pays. Compiling the default model takes about 30 s and makes a step 11 %
faster (403 ms, then 357, on two cores); its 330 steps are 2e13 FLOPs, which is why they are not compiled."""

GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s with float32 sums by part of the device's name, from NVIDIA's data sheets (SXM variants)."""


def best_device() -> torch.device:
    """A CUDA GPU (of several processes each its own), else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_for(asked: str) -> torch.device:
    """The best device, or the best of that name; ValueError if torch has none of that name here."""
    best = best_device()
    if asked in ("auto", best.type):
        return best
    if asked != "cpu":
        raise ValueError(f"is {asked}, but torch {torch.__version__} finds no such device here; choose auto or cpu")
    return torch.device("cpu")


def choose_precision(asked: Precision, device: torch.device) -> torch.dtype:
    """The precision of forward and backward; "auto" is bfloat16 only where hardware multiplies it, and rightly.

    "float8" is bfloat16 with the blocks' products in float8; ValueError where they cannot be.
    """
    if asked == "float8":
        check_float8(device)
    if asked != "auto":
        return torch.float32 if asked == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and _cpu_multiplies_bfloat16() else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    # Without the instruction torch converts each product to float32 and is slower than float32 itself. The names are
    # torch's private ones; where a version lacks them, float32 is the answer that always works.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if not any(getattr(torch.cpu, probe, lambda: False)() for probe in probes):
        return False
    left, right = _matrices()
    exact = left @ right.t()
    rounded = (left.bfloat16() @ right.bfloat16().t()).float()
    return bool((rounded - exact).norm() <= 0.01 * exact.norm())


def choose_float32_products(*, faster: bool) -> bool:
    """Set how this process multiplies float32, whatever was set before, so that the same run gives the same bits.

    `faster` lets a CPU take its other library ("medium"), if the products are as exact as torch's own; true if it does.
    On one Zen 5 core that was 207 GFLOP/s instead of 100. With AMX the same setting rounds to bfloat16, so the error is
    looked at first.
    """
    torch.set_float32_matmul_precision("highest")
    if not faster:
        return False
    left, right = _matrices()
    exact = left.double() @ right.double().t()
    error = ((left @ right.t()).double() - exact).norm()
    torch.set_float32_matmul_precision("medium")
    if ((left @ right.t()).double() - exact).norm() <= 2 * error + 1e-6 * exact.norm():
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def _matrices() -> tuple[Tensor, Tensor]:
    left, right = (torch.linspace(-1, 1, 64 * 256).sin().view(64, 256).roll(turn, 1) for turn in (0, 7))
    return left, right


def choose_compile(asked: Compile, device: torch.device, flops: float, dropout: bool = False) -> bool:
    """Whether to compile a run of so many FLOPs; "auto" does where a compiler is and the run is long enough.

    The run's length is counted, not measured: a compiled step rounds otherwise, and the same run must always make the
    same choice. With dropout a CPU is left without: the compiler's is slower than ours (model/dropout.py; 3.8 seconds a
    step for 2.3 at 6 layers of 384).
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return shutil.which("ptxas") is not None or _has_triton()
    return device.type == "cpu" and not dropout and flops >= COMPILE_FROM_FLOPS and _has_compiler()


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None


def matrix_rate(device: torch.device, precision: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of several; a tenth of a second on a CPU."""
    size = 4096 if device.type == "cuda" else 1024
    # Not random, for the numbers that a run draws are its own.
    left = torch.linspace(-1, 1, size * size, device=device).mul(size).sin().view(size, size).to(precision)
    best = float("inf")
    for _ in range(6):
        begun = time.perf_counter()
        float((left @ left)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def peak_flops(device: torch.device, precision: torch.dtype) -> float | None:
    """FLOP/s that the device could reach: of a known GPU the published figure, of a CPU its matrix product's, measured.

    None where neither is known.
    """
    if device.type == "cuda":
        words = re.findall(r"\w+", torch.cuda.get_device_name(device))
        known = [peak for part, peak in GPU_PEAKS.items() if part in words]
        return known[0] if known and precision == torch.bfloat16 else None
    return matrix_rate(device, precision) if device.type == "cpu" else None
