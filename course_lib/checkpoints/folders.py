"""Folders as `transformers`' `save_pretrained` writes them: their tensors, under our names.

Tensors are read one at a time, when it is their turn, and let go of once they are merged into ours.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PureWindowsPath

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from course_lib.architecture import TransformerConfig
from course_lib.checkpoints.model_types import READERS, Names, Plan
from course_lib.checks import read_json

__all__ = ["read_folder", "rename"]


def read_folder(
    folder: Path, kinds: tuple[str, ...], dtype: torch.dtype
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Return the shape and the weights, under our names, of the checkpoint in `folder`, of one of the model types `kinds`.

    Raises ValueError for what is not supported, and names it. Tensors that are missing, left over or of another shape are
    for the caller to find: what has no name of ours keeps its own.
    """
    published = read_json(folder / "config.json")
    kind = published.get("model_type")
    if kind not in kinds:
        raise ValueError(f"{folder} holds a model of type {kind!r}; supported are {', '.join(kinds)}")
    try:
        plan = READERS[kind](published)
    except KeyError as field:
        raise ValueError(f"{folder / 'config.json'} lacks {field}") from None
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:  # of a text in the place of a number, say
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
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
    index, single = folder / "model.safetensors.index.json", "model.safetensors"
    if not index.is_file():
        return {name: partial(_read, folder / single, name) for name in _names(folder / single)}
    file_of = read_json(index).get("weight_map")
    if not isinstance(file_of, dict):
        raise ValueError(f"{index} has no weight_map, which says where each tensor lies")
    for file in set(map(str, file_of.values())):
        if file in ("", ".", "..") or PureWindowsPath(file).name != file:  # Windows' own separators, and the other ones
            raise ValueError(
                f"{index} names the file {file!r}; weights lie beside it, so it must be a name without folders"
            )
        if lost := {name for name, its in file_of.items() if its == file} - _names(folder / file):
            raise ValueError(f"{folder / file} holds no {min(lost)}, which {index.name} says it does")
    return {name: partial(_read, folder / file, name) for name, file in file_of.items()}


def _names(path: Path) -> set[str]:
    """Return the names of the tensors in a safetensors file."""
    with _opened(path) as opened:
        return set(opened.keys())


def _read(path: Path, name: str) -> Tensor:
    with _opened(path) as opened:
        return opened.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as opened:
            yield opened
    except FileNotFoundError:
        raise ValueError(f"{path.parent} holds no {path.name}: of its weights, only safetensors are read") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy or download it again") from None


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
    for ours, theirs in every_layer(table, n_layers):
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


def every_layer(names: Names, n_layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield our name and theirs of each tensor, layer by layer."""
    for ours, theirs in names.items():
        for layer in range(n_layers if "{}" in ours else 1):
            yield ours.format(layer), tuple(name.format(layer) for name in theirs)
