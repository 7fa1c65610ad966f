"""Where tensors live: pick the device and the dtype once, here, so that no other module names one.

Every model in the course runs on whatever `pick_device` returns: the same cell runs on a laptop and on a GPU.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["pick_device", "pick_dtype", "seed_everything", "single_thread", "synchronize"]


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or the one that COURSE_DEVICE names, or the machine's accelerator, or the CPU."""
    name = name or os.environ.get("COURSE_DEVICE")
    if name is not None:
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU that computes in it, else float32.

    On CPUs without matrix units bfloat16 is emulated and slower than float32, so the CPU always gets float32.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


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
