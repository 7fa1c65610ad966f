"""One program, started once or N times by torchrun: who am I, how is the model spread, and what do we tell each other?

Every function works alone too: then there is one process, rank 0 of 1, and nothing is sent anywhere. The lines between the
processes are torch's: NCCL between GPUs, gloo between CPUs. What is sharded is known by what it can do: torch's classes of it
take a second to import, and most who train are alone.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from course_lib.architecture import TransformerLM
from course_lib.devices import pick_device

__all__ = [
    "gradient_sync",
    "is_sharded",
    "let_go",
    "mean",
    "process_group",
    "rank",
    "rows",
    "spread",
    "total",
    "wait_for_all",
    "whole",
    "world_size",
]


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the other processes if torchrun started several, and give the device that is this one's.

    Each process on a machine takes an accelerator of its own, the one that its LOCAL_RANK counts to.
    """
    device = pick_device()
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    accelerator, mine = torch.accelerator.current_accelerator(), None
    if accelerator is not None and accelerator.type == device.type:
        mine = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(mine)
    dist.init_process_group(dist.get_default_backend_for_device(device), device_id=mine)
    try:
        yield device
        # Between CPUs, a thread may still hold the last tensor that was sent, and aborts if Python ends meanwhile: torch keeps
        # the threads of sharded models to the end. Who waits for the others here lets it finish.
        wait_for_all()
    finally:
        dist.destroy_process_group()


def spread(model: TransformerLM, parallel: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return what to call in place of `model`, so that gradients are averages over all processes; alone, `model` itself.

    With other processes, the weights move to `device`, and those that count are process 0's.

    "ddp": every process holds the whole model, and gradients are averaged while the backward pass still runs (arXiv
    2006.15704). "fsdp": every process holds 1/N of the rows of each weight, of its gradient and of the optimizer's state,
    and gathers a block's weights, in `dtype`, just before it needs them (ZeRO stage 3, arXiv 1910.02054; arXiv 2304.11277).
    The model itself is changed: its parameters become `DTensor`s.
    """
    if world_size() == 1:
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model.to(device), gradient_as_bucket_view=True)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for parameter in model.parameters():
        from_first = parameter.data.to(device).contiguous()  # a loaded model's may lie by columns
        dist.broadcast(from_first, 0)
        parameter.data = from_first
    low = None if dtype == torch.float32 else dtype
    options = {
        "mesh": dist.init_device_mesh(device.type, (world_size(),)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False),
    }
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def gradient_sync(replica: nn.Module, now: bool) -> AbstractContextManager:
    """Within the block, let a backward pass send its gradients `now`, or only add them up here, for a later one to send."""
    if hasattr(replica, "set_requires_gradient_sync"):
        replica.set_requires_gradient_sync(now)
    if isinstance(replica, DistributedDataParallel) and not now:
        return replica.no_sync()
    return nullcontext()


def let_go(model: nn.Module) -> None:
    """Give back the gathered weights after a forward pass that no backward pass follows, which would have done so."""
    if hasattr(model, "reshard"):
        model.reshard()


def total(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def mean(value: Tensor) -> Tensor:
    """Return the average of `value` over all processes."""
    return total(value) / world_size()


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether `tensor` is a `DTensor`, of which this process holds some rows."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return all of `tensor`, without its history; if it is sharded, every process gets it, and all ask for it together."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Return the rows of `tensor` that this process holds, and the number of the first: all from 0 if it is not sharded.

    `fully_shard` cuts dimension 0 as `torch.chunk` does: N even parts, the last ones shorter or empty.
    """
    if not is_sharded(tensor):
        return tensor.detach(), 0
    a_part = -(-tensor.shape[0] // tensor.device_mesh.size())
    return tensor.detach().to_local(), min(a_part * tensor.device_mesh.get_local_rank(), tensor.shape[0])
