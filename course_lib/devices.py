"""Where tensors live: pick the device and the dtype once, here, so that no other module names one.

Every model in the course runs on whatever `pick_device` returns: the same cell runs on a laptop and on a GPU.
"""

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

__all__ = [
    "autocast", "keeps_blocks", "lanes", "matmul_peak", "multiplies_bfloat16", "pick_device", "pick_dtype", "seed_everything",
    "single_thread", "synchronize",
]  # fmt: skip


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or the one that COURSE_DEVICE names, or the machine's accelerator, or the CPU."""
    if name := name or os.environ.get("COURSE_DEVICE"):  # which may be empty
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU that computes in it, else float32.

    A CPU always gets float32, so that a notebook prints the same digits on all; what trains for minutes may ask
    `multiplies_bfloat16` first.
    """
    return torch.bfloat16 if device.type == "cuda" and multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether `device` multiplies matrices of bfloat16 as they are, faster than of float32; others emulate it."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def keeps_blocks(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN makes products of `dtype` on `device`, from matrices in its own blocks: float32 on a CPU."""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


def lanes(device: torch.device | None = None) -> int:
    """Return how many rows PyTorch's kernel for 4-bit matrices keeps side by side on `device`, 0 if it has none there.

    Without a device it is the processor's.
    """
    if device is not None and device.type == "cuda":  # from Ampere on; AMD's GPUs have another layout
        return 8 if torch.version.cuda and torch.cuda.get_device_capability(device) >= (8, 0) else 0
    if sys.platform == "win32" or (device is not None and device.type != "cpu"):
        return 0  # Microsoft's compiler gets neither the kernel nor its layout
    return {"AVX2": 32, "AVX512": 64}.get(torch.backends.cpu.get_cpu_capability(), 0)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which products with float32 weights are made in `dtype`, and sums of many numbers in float32.

    Mixed precision (arXiv 1710.03740): the weights and what the optimizer does to them keep their seven digits.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many floating-point operations a second `device` makes at best in a product of two matrices of `dtype`.

    Measured, in a fraction of a second, on as many threads as are in use now: what the maker states is rarely reached. It is
    measured once for each dtype and number of threads.
    """
    return _measured_peak(device, dtype, torch.get_num_threads())


@cache
def _measured_peak(device: torch.device, dtype: torch.dtype, _n_threads: int) -> float:
    size, seconds = 256, 0.0
    while seconds < 0.005 and size < 8192:  # large enough that nothing but the product takes time
        size *= 2
        a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        a @ b  # warms up
        seconds = min(_seconds(device, a, b) for _ in range(10))
    return 2 * size**3 / seconds


def _seconds(device: torch.device, a: torch.Tensor, b: torch.Tensor) -> float:
    synchronize(device)
    start = time.perf_counter()
    a @ b
    synchronize(device)
    return time.perf_counter() - start


def seed_everything(seed: int = 0) -> torch.Generator:
    """Seed Python, NumPy and PyTorch, and return a CPU generator of its own with the same seed.

    What is drawn from the generator does not depend on how many numbers were drawn elsewhere.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished what it was given: a GPU's work is queued, so a clock read without this lies."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def single_thread() -> Iterator[None]:
    """Within the block, compute on one CPU thread.

    Models of a few thousand weights gain nothing from a second one, and on a busy machine (thirty learners on a hub, say)
    threads that wait for each other at every tiny product take many times longer: 80 s against 5 s was seen.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
