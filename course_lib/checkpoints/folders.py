"""Folders as `transformers`' `save_pretrained` writes them: their tensors, under our names.

Tensors are read one at a time, when it is their turn, and let go of once they are merged into ours.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from course_lib.architecture import TransformerConfig
from course_lib.checkpoints.model_types import READERS, Names, Plan

__all__ = ["read_folder", "rename"]


def read_folder(
    folder: Path, kinds: tuple[str, ...], dtype: torch.dtype
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Return the shape and the weights, under our names, of the checkpoint in `folder`, of one of the model types `kinds`.

    Raises ValueError for what is not supported, and names it. Tensors that are missing, left over or of another shape are
    for the caller to find: what has no name of ours keeps its own.
    """
    published = json.loads((folder / "config.json").read_text())
    kind = published.get("model_type")
    if kind not in kinds:
        raise ValueError(f"{folder} holds a model of type {kind!r}; supported are {', '.join(kinds)}")
    try:
        plan = READERS[kind](published)
    except KeyError as field:
        raise ValueError(f"{folder / 'config.json'} lacks {field}") from None
    loaders = {name.removeprefix(plan.prefix): load for name, load in _open(folder).items()}
    if plan.config.tied_embeddings and _UNEMBEDDING in loaders:
        plan = _with_unembedding(plan, loaders)
    names = [name for name in loaders if not name.endswith(plan.ignored)]

    def read(name: str) -> Tensor:
        return plan.mend(name, lambda name: loaders[name]()).to(dtype)

    return plan.config, rename(names, read, plan.names, plan.config.n_layers)


def _open(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Return for each tensor in the folder's safetensors files a function that reads it.

    Each read maps the file anew, so that the pages of a tensor that has been merged are given back.
    """
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for path in (folder / file for file in files):
        try:
            with safe_open(path, framework="pt") as opened:
                tensors |= {name: partial(_read, path, name) for name in opened.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ValueError(f"{folder} holds no {path.name}: of its weights, only safetensors are read") from None
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); copy or download it again") from None
    return tensors


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as opened:
        return opened.get_tensor(name)


_UNEMBEDDING = "lm_head.weight"


def _with_unembedding(plan: Plan, loaders: dict[str, Callable[[], Tensor]]) -> Plan:
    """Change `plan` for a checkpoint that says it is tied and holds an unembedding: one copy too many, or it is not tied.

    So does `transformers`.
    """
    (embedding,) = plan.names["embedding.weight"]
    if torch.equal(loaders[_UNEMBEDDING](), loaders[embedding]()):
        return replace(plan, ignored=(*plan.ignored, _UNEMBEDDING))
    return replace(plan, config=replace(plan.config, tied_embeddings=False))


# ---------------------------------------------------------------- from their names to ours


def rename(names: Iterable[str], read: Callable[[str], Tensor], table: Names, n_layers: int) -> dict[str, Tensor]:
    """Read the tensors `names`, and return them under our names, merged where we merge.

    The parts of a matrix are read when it is their turn, and let go of once it is merged, so that no more than one matrix
    lies in memory twice. Names that the table lacks stay as they are, to be reported.
    """
    left = set(names)
    renamed = {}
    for ours, theirs in _every_layer(table, n_layers):
        if left.issuperset(theirs):
            renamed[ours] = _by_columns(_merge([read(name) for name in theirs]))
            left.difference_update(theirs)
    return renamed | {name: read(name) for name in left}


def _merge(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_columns(weight: Tensor) -> Tensor:
    """Return `weight` (out, in) unchanged in value and shape, but if it has more rows than columns, lying column by column.

    A matrix-vector product then runs along the longer side in memory. Decoding is bound by how fast the weights stream in,
    and gets 1.4 times faster by it (benchmarks/README.md).
    """
    if weight.ndim != 2 or weight.shape[0] <= weight.shape[1]:
        return weight
    return weight.T.contiguous().T


def _every_layer(names: Names, n_layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for ours, theirs in names.items():
        for layer in range(n_layers if "{}" in ours else 1):
            yield ours.format(layer), tuple(name.format(layer) for name in theirs)
