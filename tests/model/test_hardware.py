"""The fast path is taken where it is right and pays, and otherwise the one that always works."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import hardware
from model.gpt import GPTConfig
from model.hardware import (
    COMPILE_FROM_FLOPS,
    choose_compile,
    choose_float32_products,
    choose_precision,
    device_for,
    flops_per_token,
    peak_flops,
)
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
    default = flops_per_token(PRESETS["default"]) * 360 * 2048
    assert not choose_compile("auto", CPU, default)
    assert choose_compile("auto", CPU, COMPILE_FROM_FLOPS)
    assert not choose_compile("auto", CPU, COMPILE_FROM_FLOPS, dropout=True)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    assert not choose_compile("auto", CPU, COMPILE_FROM_FLOPS)
    assert choose_compile(True, CPU, 0.0) and not choose_compile(False, CPU, 1e30)


def test_flops_are_six_per_multiplied_weight_and_the_attention() -> None:
    """One layer of width 2 by hand: 4 matrices of 2 × 2, two of 2 × 8, the head of 2 × 4, norms; 12 × 1 × 2 × 3."""
    config = GPTConfig(
        vocab_size=4, context_length=3, n_layers=1, n_heads=1, d_model=2, mlp="gelu", tied_head=False, d_ff=8
    )
    assert flops_per_token(config) == 6 * (4 * 4 + 2 * 16 + 8 + 3 * 2) + 12 * 2 * 3
    assert flops_per_token(dataclasses.replace(config, tied_head=True)) == flops_per_token(config)


def test_the_peak_of_a_cpu_is_measured() -> None:
    """More than a calculator, less than all of today's supercomputers."""
    peak = peak_flops(CPU, torch.float32)
    assert peak is not None and 1e8 < peak < 1e18


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
