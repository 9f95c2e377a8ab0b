"""The fast path is taken where it is right and pays, and otherwise the one that always works."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import hardware
from model.hardware import (
    COMPILE_FROM_FLOPS,
    choose_compile,
    choose_float32_products,
    choose_precision,
    device_for,
    matrix_rate,
    peak_flops,
)
from model.plan import training_flops_per_token
from model.presets import PRESETS

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_device_asked_for_is_one_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda is this process's own GPU, as auto is; where there is none, that is said and nothing else taken instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_for("cuda") == device_for("auto") == torch.device("cuda", 1)
    assert device_for("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match=f"is {name}, but torch .* finds no such device here"):
            device_for(name)
    assert device_for("auto") == device_for("cpu") == CPU


def test_without_the_instruction_float32_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that does not multiply bfloat16, or a torch that does not say, gets float32."""
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert choose_precision("auto", CPU) == torch.float32
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert choose_precision("auto", CPU) == torch.float32


def test_faster_float32_is_kept_only_where_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the setting rounds to bfloat16, as with AMX, it is taken back."""
    took = choose_float32_products(faster=True)
    assert torch.get_float32_matmul_precision() == ("medium" if took else "highest")
    left, right = hardware._matrices()

    class Rounding(torch.Tensor):
        def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
            medium = torch.get_float32_matmul_precision() == "medium"
            exact = torch.Tensor.__matmul__(self.as_subclass(torch.Tensor), other.as_subclass(torch.Tensor))
            return exact.bfloat16().float() if medium else exact

    monkeypatch.setattr(hardware, "_matrices", lambda: (left.as_subclass(Rounding), right))
    assert not choose_float32_products(faster=True)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_run_sets_its_products_whatever_ran_before() -> None:
    """A run in float32 that was asked for does not take over what an earlier run of this process found faster."""
    torch.set_float32_matmul_precision("medium")
    assert not choose_float32_products(faster=False)
    assert torch.get_float32_matmul_precision() == "highest"


def test_only_a_long_run_with_a_compiler_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto: the default run is too short, ten times as much is not; without a compiler neither is. Else as asked."""
    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/g++")
    default = training_flops_per_token(PRESETS["default"], 256) * 360 * 2048
    assert not choose_compile("auto", CPU, default)
    assert choose_compile("auto", CPU, COMPILE_FROM_FLOPS)
    assert not choose_compile("auto", CPU, COMPILE_FROM_FLOPS, dropout=True)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    assert not choose_compile("auto", CPU, COMPILE_FROM_FLOPS)
    assert choose_compile(True, CPU, 0.0) and not choose_compile(False, CPU, 1e30)


def test_the_peak_of_a_cpu_is_measured() -> None:
    """More than a calculator, less than all of today's supercomputers."""
    peak = peak_flops(CPU, torch.float32)
    assert peak is not None and 1e8 < peak < 1e18


def test_measuring_draws_no_number_of_the_run() -> None:
    """What torch's generator gives next is what it would have given."""
    state = torch.get_rng_state()
    matrix_rate(CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", 165e12),
    ],
)
def test_a_gpu_is_known_by_a_word_of_its_name(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not listed has no peak, though its name begin as another's."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak


FREEING = """
import sys, torch
from model.freed_memory import keep_freed_memory

def resident() -> int:
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
array = torch.ones(16 << 20)
del array
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize("way", ["keep", "give back"])
def test_memory_of_arrays_is_kept(way: str) -> None:
    """The 64 MB of an array that is gone stay with the process, which otherwise gives them back."""
    command = [sys.executable, "-c", FREEING, way]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 48) == (way == "keep")
