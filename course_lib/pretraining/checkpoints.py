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
`model-00000-of-00002.safetensors`, whose header says at which row each piece begins. Another number of processes then opens
just the files that hold rows which it needs.

Disks and copies go wrong, so nothing is believed unseen. Each piece of a tensor and each line of JSON has a checksum (CRC-32:
a second for some gigabytes, and no changed byte escapes it), and files of tensors say of which step they are. What does not
fit together is an error that names the file. Checkpoints from before there were checksums are read as they are.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from course_lib.architecture import TransformerLM
from course_lib.devices import pick_device
from course_lib.pretraining.config import transformer_config
from course_lib.pretraining.processes import is_sharded, rank, rows, wait_for_all, world_size

__all__ = [
    "checkpoint_path", "list_checkpoints", "load_model", "mended", "read_lines", "read_state", "restore", "save",
    "write_history",
]  # fmt: skip

_RESUMABLE = 2  # checkpoints, the newest, keep what the optimizers remember, up to twice as large as the weights
_FIRST_ROWS = "first_rows"  # in the header: which row each piece of a tensor in it begins with, if not with row 0
_HEADER = "checkpoint"  # the one entry of a file's header, as JSON: safetensors writes several in any order
_NAME = re.compile(r"step-(\d+)")
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints in `folder`, in order of their step; none if there is no such folder."""
    folder = Path(folder)
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies in `folder`."""
    return folder / f"step-{step:06d}"


# ---------------------------------------------------------------- writing


def save(
    folder: Path,
    step: int,
    model: TransformerLM,
    optimizers: Sequence[Optimizer],
    state: dict[str, Any],
    history: Iterable[dict[str, Any]],
) -> Path:
    """Write a checkpoint into `folder` and return its path. All processes call this together, and nobody else meanwhile.

    `state` and each line of `history` are what JSON can hold. Raises OSError if the disk is full.
    """
    final, partial = checkpoint_path(folder, step), folder / f".step-{step:06d}.partial"
    is_first = rank() == 0
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.glob(".step-*.partial"):  # by a process that was killed
            shutil.rmtree(abandoned)
        partial.mkdir()
    wait_for_all()
    weights = dict(model.named_parameters())
    remembered, numbers = _memory(weights, optimizers)
    in_parts = any(map(is_sharded, weights.values()))
    if is_first or in_parts:  # else every process holds the same
        part = f"-{rank():05d}-of-{world_size():05d}" if in_parts else ""
        _write_rows(partial / f"model{part}.safetensors", weights, step)
        _write_rows(partial / f"optimizer{part}.safetensors", remembered, step)
    if is_first:
        _write_text(partial / "config.json", _sealed(asdict(model.config), indent=2))
        _write_text(partial / "state.json", _sealed({"step": step, **state, "numbers": numbers}, indent=2))
        write_history(partial, history)
    wait_for_all()
    if is_first:
        _force_to_disk(partial)
        partial.rename(final)
        _force_to_disk(folder)
        for older in list_checkpoints(folder)[:-_RESUMABLE]:
            for file in older.glob("optimizer*.safetensors"):
                file.unlink()
    wait_for_all()
    return final


def write_history(checkpoint: Path, history: Iterable[dict[str, Any]]) -> None:
    """Write a checkpoint's history, in place of what there may be: whole or not at all. Process 0 does it for all."""
    if rank() == 0:
        fresh = checkpoint / ".history.partial"
        _write_text(fresh, "".join(_sealed(line) + "\n" for line in history))
        fresh.replace(checkpoint / "history.jsonl")


def _sealed(content: dict[str, Any], indent: int | None = None) -> str:
    """Return `content` as JSON, and with it its "checksum"."""
    return json.dumps(content | {"checksum": crc32(json.dumps(content).encode())}, indent=indent)


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


def _write_rows(path: Path, tensors: dict[str, Tensor], step: int) -> None:
    """Write the rows that this process holds."""
    held = {name: rows(tensor) for name, tensor in tensors.items()}
    parts = {name: part.contiguous().cpu() for name, (part, _) in held.items() if part.numel()}
    starts = {name: held[name][1] for name in parts}
    header = {
        "step": step,
        _FIRST_ROWS: {name: start for name, start in starts.items() if start},
        "checksums": {name: _checksum(name, starts[name], part) for name, part in parts.items()},
    }
    try:
        save_file(parts, path, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    path.chmod(0o644)  # save_file lets its owner alone read it, and a classroom shares its folders
    _force_to_disk(path)


def _checksum(name: str, start: int, part: Tensor) -> int:
    """Return the checksum of a tensor's rows from `start` on, of their numbers and of what they are."""
    what = f"{name} {start} {tuple(part.shape)} {part.dtype}"
    return crc32(part.reshape(-1).view(torch.uint8).numpy(), crc32(what.encode()))


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
    path = checkpoint / "state.json"
    with _named(path):
        state = _unsealed(path.read_text(encoding="utf-8"))
        state["step"], state["numbers"]  # are there
    return state


def read_lines(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the lines of the history that `save` was given."""
    path, step = checkpoint / "history.jsonl", read_state(checkpoint)["step"]
    with _named(path):
        lines = [_unsealed(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if [line["step"] for line in lines] != [*range(1, step + 1)]:
            raise ValueError(f"it holds {len(lines)} reports and not one for each step to {step}, as state.json has it")
    return lines


def restore(checkpoint: Path, model: TransformerLM, optimizers: Sequence[Optimizer]) -> None:
    """Fill `model` and `optimizers` from `checkpoint`, each process the rows that it holds.

    Raises ValueError if the checkpoint is of another model, if it has trained a weight that is frozen now, if it is so old
    that only its weights are left, or if a file is missing or damaged.
    """
    _fill(model, checkpoint)
    weights = dict(model.named_parameters())
    groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
    owner = {weight: optimizer for optimizer, group in groups for weight in group["params"]}
    stored, numbers = _Stored(checkpoint, "optimizer"), read_state(checkpoint)["numbers"]
    entries = {entry: entry.partition("/")[::2] for entry in [*stored.shapes, *numbers]}
    if odd := sorted(entry for entry, (name, what) in entries.items() if not what or name not in weights):
        raise ValueError(f"{checkpoint} remembers of its optimizers what is no weight's here: {', '.join(odd)}")
    if frozen := sorted({name for name, _ in entries.values() if weights[name] not in owner}):
        names = ", ".join(frozen)
        raise ValueError(f"{checkpoint} has trained what is frozen here: {names}; requires_grad_() sets a weight free")
    if wrong := [entry for entry, shape in stored.shapes.items() if shape != weights[entries[entry][0]].shape]:
        raise ValueError(f"{checkpoint} remembers other shapes than the weights have: {', '.join(wrong)}")
    for entry, (name, what) in entries.items():
        weight, value = weights[name], numbers.get(entry)
        if value is None:
            value = torch.empty_like(weight, requires_grad=False)  # lying where the weight lies
            stored.read_into(value, entry)
        owner[weight].state[weight][what] = value


def load_model(checkpoint: str | Path, device: torch.device | str | None = None) -> TransformerLM:
    """Return the model that a checkpoint holds, in float32, ready for inference, on `device` or on `pick_device()`.

    Raises ValueError if it holds something else than a `TransformerLM`, or if a file is missing or damaged.
    """
    path = Path(checkpoint) / "config.json"
    with _named(path):
        config = transformer_config(_unsealed(path.read_text(encoding="utf-8")))
    with torch.device("meta"):  # neither memory nor random numbers for weights that are about to be replaced
        model = TransformerLM(config)
    model.to_empty(device=pick_device() if device is None else device)
    _fill(model, path.parent)
    return model.requires_grad_(False).eval()


def mended(folder: Path) -> Path:
    """Return `folder`, and remove its newest checkpoints first as long as they are damaged, with a warning that names each.

    So a run goes on from the newest that it can go on from. If there is none, it begins anew, and checkpoints that are so old
    that only their weights are left are moved out of its way, into `folder / "older-1"`, with a warning. While a Trainer
    writes into `folder`, nothing is removed or moved.
    """
    if _fault_of_newest(folder) is None and not _weights_alone(folder):
        return folder  # and it may lie where nothing can be written
    with suppress(Timeout), FileLock(folder / ".lock", timeout=0):
        while fault := _fault_of_newest(folder):
            shutil.rmtree(list_checkpoints(folder)[-1])
            warnings.warn(f"a damaged checkpoint was removed: {fault}", stacklevel=2)
        if older := _weights_alone(folder):
            aside = folder / f"older-{len(list(folder.glob('older-*'))) + 1}"
            aside.mkdir()
            for checkpoint in older:
                checkpoint.rename(aside / checkpoint.name)
            warnings.warn(f"the run begins anew: {aside} holds checkpoints with only their weights left", stacklevel=2)
    return folder


def _weights_alone(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder` if none of them holds what the optimizers remember; else none."""
    found = list_checkpoints(folder)
    return [] if any(any(checkpoint.glob("optimizer*.safetensors")) for checkpoint in found) else found


def _fault_of_newest(folder: Path) -> str | None:
    """Return what is wrong with the newest checkpoint in `folder`, or None, also if there is none."""
    kinds = ["model"] if _weights_alone(folder) else ["model", "optimizer"]  # which the oldest lose first
    try:
        for checkpoint in list_checkpoints(folder)[-1:]:
            read_lines(checkpoint)
            for stored in (_Stored(checkpoint, kind) for kind in kinds):
                for name, shape in stored.shapes.items():
                    stored.read_into(torch.empty(shape), name)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def _fill(model: TransformerLM, checkpoint: Path) -> None:
    stored = _Stored(checkpoint, "model")
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    if wrong := [n for n in sorted(shapes | stored.shapes) if shapes.get(n) != stored.shapes.get(n)]:
        raise ValueError(
            f"{checkpoint} holds another model: these weights are not in both or differ: {', '.join(wrong)}"
        )
    for name, weight in model.named_parameters():
        stored.read_into(weight, name)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error that the content of a file leads to say which file it is."""
    try:
        yield
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        mend = f"training can go on from the checkpoint before it, once {path.parent} is removed"
        raise ValueError(f"{path} is damaged: {error}; {mend}") from None


def _unsealed(text: str) -> dict[str, Any]:
    """Return what `_sealed` was given; ValueError if it is not that any more."""
    content = json.loads(text)
    if content.pop("checksum", None) not in (None, crc32(json.dumps(content).encode())):
        raise ValueError("its checksum is another")
    return content


class _Piece(NamedTuple):
    """Rows `start` to `end` of a tensor."""

    start: int
    end: int
    path: Path
    checksum: int | None  # None: of a file from before there were any


class _Stored:
    """The tensors of one kind in a checkpoint, whether each lies whole in one file or by rows in several.

    Raises ValueError if a file is missing, is of another step, or cannot be read, and if rows are missing or come twice.
    """

    def __init__(self, checkpoint: Path, kind: str):
        self.shapes: dict[str, torch.Size] = {}
        self._pieces: dict[str, list[_Piece]] = {}
        step = read_state(checkpoint)["step"]
        for path in _parts(checkpoint, kind):
            with _named(path), safe_open(path, framework="pt") as file:
                header = _header(file)
                if header.get("step", step) != step:
                    raise ValueError(f"it is of step {header['step']}, and state.json of step {step}")
                self._take(path, file, header)

    def _take(self, path: Path, file: Any, header: dict[str, Any]) -> None:
        """Note the pieces in an open `file`; files come in the order of their rows."""
        starts, names = header[_FIRST_ROWS], list(file.keys())
        checksums = header.get("checksums", dict.fromkeys(names))
        if odd := sorted(checksums.keys() ^ set(names)):
            raise ValueError(f"checksums and tensors are not of the same names: {', '.join(odd)}")
        for name in names:
            shape, start = file.get_slice(name).get_shape(), starts.get(name, 0)
            end = start + (shape[0] if shape else 1)
            pieces = self._pieces.setdefault(name, [])
            if start != (there := pieces[-1].end if pieces else 0):
                problem = "are missing" if start > there else "come twice"
                raise ValueError(f"rows {min(start, there)} to {max(start, there) - 1} of {name} {problem}")
            pieces.append(_Piece(start, end, path, checksums[name]))
            self.shapes[name] = torch.Size([end, *shape[1:]] if shape else [])  # the last piece's end stays

    @torch.no_grad()
    def read_into(self, tensor: Tensor, name: str) -> None:
        """Copy into `tensor` the rows of it that this process holds, from the files that hold any of them."""
        held, first = rows(tensor)
        held = torch.atleast_1d(held)
        for start, end, path, checksum in self._pieces[name]:
            low, high = max(start, first), min(end, first + len(held))
            if low >= high:
                continue
            with _named(path), safe_open(path, framework="pt") as file:
                piece = file.get_tensor(name)
                if checksum not in (None, _checksum(name, start, piece)):
                    raise ValueError(f"the checksum of {name} is another")
            held[low - first : high - first].copy_(torch.atleast_1d(piece)[low - start : high - start])


def _header(file: Any) -> dict[str, Any]:
    """Return what `_write_rows` wrote into the header of an open `file`; it once was no more than first rows."""
    metadata = file.metadata() or {}
    if _HEADER in metadata:
        return json.loads(metadata[_HEADER])
    return {_FIRST_ROWS: json.loads(metadata.get(_FIRST_ROWS, "{}"))}


def _parts(checkpoint: Path, kind: str) -> list[Path]:
    """Return the files of one kind, in the order of their rows: one, or as many as the name of each says there are."""
    found = sorted(path.name for path in checkpoint.glob(f"{kind}*.safetensors"))
    if not found:
        raise ValueError(f"{checkpoint} holds no {kind}.safetensors; of old ones, only the weights are kept")
    if numbered := _PART.search(found[0]):
        n_parts = int(numbered[2])
        wanted = [f"{kind}-{part:05d}-of-{n_parts:05d}.safetensors" for part in range(n_parts)]
    else:
        wanted = [f"{kind}.safetensors"]
    if missing := sorted({*wanted} - {*found}):
        raise ValueError(f"{checkpoint} holds {found[0]}, but lacks {', '.join(missing)}")
    if surplus := sorted({*found} - {*wanted}):
        raise ValueError(f"{checkpoint} holds {wanted[0]}, and beside it {', '.join(surplus)}: which one is meant?")
    return [checkpoint / name for name in wanted]
