"""Checkpoints of a training run: written whole or not at all, and read by any number of processes.

A checkpoint is a folder, such as `step-000120`, that holds

    config.json             the fields of TransformerConfig
    model.safetensors       the weights, float32
    optimizer.safetensors   what the optimizers remember of each weight, "blocks.0.attention.qkv.weight/momentum"
    state.json              the step, the settings of the run, and what the optimizers remember in plain numbers
    history.jsonl           a report for each step so far

Nothing in it is pickled, so that loading it can run no code. It is written under another name, forced to the disk and then
renamed, which a file system does in one step: a process that is killed leaves the checkpoint whole, or none.

Of weights that are sharded (`fully_shard`), each process writes the rows that it holds into a file of its own,
`model-00000-of-00002.safetensors`, whose header says at which row each piece begins. Another number of processes then reads
just the rows that each of them needs, whichever files they lie in.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from course_lib.architecture import TransformerLM
from course_lib.devices import pick_device
from course_lib.pretraining.config import transformer_config
from course_lib.pretraining.processes import rank, rows, wait_for_all, world_size

__all__ = ["list_checkpoints", "load_model", "read_lines", "read_state", "restore", "save"]

_RESUMABLE = 2  # checkpoints, the newest, keep what the optimizers remember, up to twice as large as the weights
_FIRST_ROWS = "first_rows"  # in a file's header: which row each piece of a tensor in it begins with, if not with row 0
_NAME = re.compile(r"step-(\d+)")


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints in `folder`, in order of their step; none if there is no such folder."""
    folder = Path(folder)
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


# ---------------------------------------------------------------- writing


def save(
    folder: Path,
    step: int,
    model: TransformerLM,
    optimizers: Sequence[Optimizer],
    state: dict[str, Any],
    history: Iterable[dict[str, Any]],
) -> Path:
    """Write a checkpoint into `folder` and return its path. All processes call this together.

    `state` and each line of `history` are what JSON can hold. Raises OSError if the disk is full.
    """
    final, partial = folder / f"step-{step:06d}", folder / f".step-{step:06d}.partial"
    is_first = rank() == 0
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock") if is_first else nullcontext():  # should another run use the same folder
        if is_first:
            for abandoned in folder.glob(".step-*.partial"):  # by a process that was killed
                shutil.rmtree(abandoned)
            partial.mkdir()
        wait_for_all()
        weights = dict(model.named_parameters())
        remembered, numbers = _memory(weights, optimizers)
        is_sharded = any(isinstance(weight, DTensor) for weight in weights.values())
        if is_first or is_sharded:  # else every process holds the same
            part = f"-{rank():05d}-of-{world_size():05d}" if is_sharded else ""
            _write_rows(partial / f"model{part}.safetensors", weights)
            _write_rows(partial / f"optimizer{part}.safetensors", remembered)
        if is_first:
            _write_text(partial / "config.json", json.dumps(asdict(model.config), indent=2))
            _write_text(partial / "history.jsonl", "".join(json.dumps(line) + "\n" for line in history))
            _write_text(partial / "state.json", json.dumps({"step": step, **state, "numbers": numbers}, indent=2))
        wait_for_all()
        if is_first and not final.exists():  # by that other run
            _force_to_disk(partial)
            partial.rename(final)
            _force_to_disk(folder)
            for older in list_checkpoints(folder)[:-_RESUMABLE]:
                for file in older.glob("optimizer*.safetensors"):
                    file.unlink()
    wait_for_all()
    return final


def _memory(weights: dict[str, Tensor], optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return what the optimizers remember, as "weight/what": tensors, and plain numbers."""
    names = {weight: name for name, weight in weights.items()}
    entries = {
        f"{names[weight]}/{what}": value
        for optimizer in optimizers
        for weight, memory in optimizer.state.items()
        for what, value in memory.items()
    }
    tensors = {entry: value for entry, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {entry: value for entry, value in entries.items() if entry not in tensors}


def _write_rows(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the rows that this process holds."""
    held = {name: rows(tensor) for name, tensor in tensors.items()}
    held = {name: (part, start) for name, (part, start) in held.items() if part.numel()}
    starts = {name: start for name, (_, start) in held.items() if start}
    header = {_FIRST_ROWS: json.dumps(starts)} if starts else None
    try:
        save_file({name: part.contiguous() for name, (part, _) in held.items()}, path, metadata=header)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    path.chmod(0o644)  # save_file lets its owner alone read it, and a classroom shares its folders
    _force_to_disk(path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _force_to_disk(path)


def _force_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the list of a folder's files, is where a power cut cannot reach it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- reading


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the `state` that `save` was given, and with it the "step"."""
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def read_lines(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the lines of the history that `save` was given."""
    return [json.loads(line) for line in (checkpoint / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def restore(checkpoint: Path, model: TransformerLM, optimizers: Sequence[Optimizer]) -> None:
    """Fill `model` and `optimizers` from `checkpoint`, each process the rows that it holds.

    Raises ValueError if the checkpoint is of another model, or so old that only its weights are left.
    """
    _fill(model, checkpoint)
    weights = dict(model.named_parameters())
    groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
    owner = {weight: optimizer for optimizer, group in groups for weight in group["params"]}
    stored, numbers = _Stored(checkpoint, "optimizer"), read_state(checkpoint)["numbers"]
    for entry in [*stored.shapes, *numbers]:
        name, what = entry.split("/")
        weight = weights[name]
        if entry in numbers:
            value = numbers[entry]
        elif stored.shapes[entry] == weight.shape:  # as the weight itself, lying where it lies
            stored.read_into(value := torch.empty_like(weight, requires_grad=False), entry)
        else:
            stored.read_into(value := torch.empty(stored.shapes[entry]), entry)
        owner[weight].state[weight][what] = value


def load_model(checkpoint: str | Path, device: torch.device | str | None = None) -> TransformerLM:
    """Return the model that a checkpoint holds, in float32, ready for inference, on `device` or on `pick_device()`.

    Raises ValueError if it holds something else than a `TransformerLM`.
    """
    checkpoint = Path(checkpoint)
    config = transformer_config(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    with torch.device("meta"):  # neither memory nor random numbers for weights that are about to be replaced
        model = TransformerLM(config)
    model.to_empty(device=pick_device() if device is None else device)
    _fill(model, checkpoint)
    return model.requires_grad_(False).eval()


def _fill(model: TransformerLM, checkpoint: Path) -> None:
    stored = _Stored(checkpoint, "model")
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    if wrong := [n for n in sorted(shapes | stored.shapes) if shapes.get(n) != stored.shapes.get(n)]:
        raise ValueError(
            f"{checkpoint} holds another model: these weights are not in both or differ: {', '.join(wrong)}"
        )
    for name, weight in model.named_parameters():
        stored.read_into(weight, name)


class _Stored:
    """The tensors of one kind in a checkpoint, whether each lies whole in one file or by rows in several."""

    def __init__(self, checkpoint: Path, kind: str):
        self.shapes: dict[str, torch.Size] = {}
        self._pieces: dict[str, list[tuple[int, int, Path]]] = {}  # of each tensor: rows from … to … lie in this file
        paths = sorted(checkpoint.glob(f"{kind}*.safetensors"))
        if not paths:
            raise ValueError(f"{checkpoint} holds no {kind}.safetensors; of old ones, only the weights are kept")
        for path in paths:
            with safe_open(path, framework="pt") as file:
                starts = json.loads((file.metadata() or {}).get(_FIRST_ROWS, "{}"))
                for name in file.keys():  # noqa: SIM118
                    shape, start = file.get_slice(name).get_shape(), starts.get(name, 0)
                    end = start + (shape[0] if shape else 1)
                    self._pieces.setdefault(name, []).append((start, end, path))
                    self.shapes[name] = torch.Size([end, *shape[1:]] if shape else [])  # the last piece's end stays

    @torch.no_grad()
    def read_into(self, tensor: Tensor, name: str) -> None:
        """Copy into `tensor` the rows of it that this process holds, and read no others."""
        held, first = rows(tensor)
        if not held.ndim:
            with safe_open(self._pieces[name][0][2], framework="pt") as file:
                held.copy_(file.get_tensor(name))
            return
        for start, end, path in self._pieces[name]:
            low, high = max(start, first), min(end, first + len(held))
            if low < high:
                with safe_open(path, framework="pt") as file:
                    held[low - first : high - first].copy_(file.get_slice(name)[low - start : high - start])
