"""LoRA: a large matrix is frozen, and the product of two small ones is trained beside it (arXiv 2106.09685, section 4.1).

A weight W (out, in) becomes W + α/r · B A, with A (r, in) and B (out, r). B begins as zeros, so that training begins with the
model as it is. For SmolLM2 and rank 8 in queries and values that is 0.3 % of the weights: so little is trained, remembered by
the optimizer, and stored for each task.

Matrices are called by their published names, `q_proj` to `down_proj`, also where ours hold several of them; files are as
`peft` writes and reads them.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.checks import check, check_texts, read_json
from course_lib.pretraining import processes

__all__ = ["LoraConfig", "LoraLinear", "add_lora", "at_scale", "load_adapter", "merge", "save_adapter", "unmerge"]

_PLACES = {  # our matrix -> those that it holds, one below the other, as they are published
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "feed_forward.up": ("mlp.gate_proj", "mlp.up_proj"),
    "feed_forward.down": ("mlp.down_proj",),
}
_UNGATED = {"feed_forward.up": ("mlp.up_proj",)}  # where the feed-forward network is not gated as Llama's is
TARGETS = tuple(name.split(".")[1] for names in _PLACES.values() for name in names)
"""What can be adapted."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SMALL = {"down": "lora_A", "up": "lora_B"}  # A and B, as ours and as files call them


@dataclass(frozen=True)
class LoraConfig:
    """The `rank` r, the factor `alpha` in α/r, and the matrices that are adapted, by names in `TARGETS`."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        check("rank", self.rank)
        check("alpha", self.alpha, float)
        check_texts("targets", self.targets)
        if not self.targets or not set(self.targets) <= set(TARGETS):
            raise ValueError(f"targets must be some of {', '.join(TARGETS)}, not {self.targets!r}")


class LoraLinear(nn.Linear):
    """The linear map `frozen`, and small trained matrices beside it: x Wᵀ + α/r · (x Aᵀ) Bᵀ.

    `sizes` says how many rows of W (out, in) each published matrix takes, from the top. For each of them that is adapted,
    `down` holds A (rank, in) and `up` holds B (rows, rank), under its name.
    """

    def __init__(self, frozen: nn.Linear, sizes: dict[str, int], config: LoraConfig):
        nn.Module.__init__(self)  # not nn.Linear's own, which would make new weights
        self.weight, self.bias = frozen.weight, frozen.bias
        self.out_features, self.in_features = frozen.weight.shape
        self.sizes, self.scale = sizes, config.alpha / config.rank
        like = {"device": frozen.weight.device, "dtype": frozen.weight.dtype}
        names = [name for name in sizes if name in config.targets]
        self.down = nn.ParameterDict({name: torch.empty(config.rank, self.in_features, **like) for name in names})
        self.up = nn.ParameterDict({name: torch.zeros(sizes[name], config.rank, **like) for name in names})
        for a in self.down.values():
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (…, in) to (…, out)."""
        out = F.linear(x, self.weight, self.bias)
        a, b = self._small()
        narrow = F.linear(x, a)  # of all parts at once: (…, parts · rank)
        return torch.addmm(out.flatten(0, -2), narrow.flatten(0, -2), b.T, alpha=self.scale).view_as(out)

    def update(self) -> Tensor:
        """Return what is added to W: α/r · B A (out, in)."""
        a, b = self._small()
        return self.scale * (b @ a)

    def _small(self) -> tuple[Tensor, Tensor]:
        """Return A (parts · rank, in) and B (out, parts · rank) of all parts: B has each part's rows where W has them."""
        nothing = self.weight.new_zeros
        blocks = [self.up[name] if name in self.up else nothing(rows, 0) for name, rows in self.sizes.items()]
        return torch.cat([self.down[name] for name in self.sizes if name in self.down]), torch.block_diag(*blocks)


def add_lora(model: TransformerLM, config: LoraConfig) -> None:
    """Freeze `model` and put small matrices beside those that `config` names; they alone are trained from now on.

    A network without a gate has `up_proj` and `down_proj` alone. `peft` calls the matrices of such models otherwise (GPT-2's
    `c_attn`), so adapters of theirs are files for this library only.

    Raises ValueError if the model has no matrix of one of these names, or if it has an adapter already.
    """
    places = _places(model.config)
    known = {name.split(".")[1] for names in places.values() for name in names}
    if unknown := [name for name in config.targets if name not in known]:
        raise ValueError(f"the model has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise ValueError("the model has an adapter already: merge it first, or load the model anew")
    model.requires_grad_(False)
    for block in model.blocks:
        for place in places:
            sizes = _sizes(model.config, place)
            if set(sizes) & set(config.targets):
                _replace(block, place, LoraLinear(block.get_submodule(place), sizes, config))


def merge(model: TransformerLM) -> dict[str, LoraLinear]:
    """Add each update to its weight, so that the model is a plain one again, and as fast; return what `unmerge` takes."""
    adapter = dict(_adapted(model))
    for place, module in adapter.items():
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight, plain.bias = module.weight, module.bias
        with torch.no_grad():
            plain.weight += module.update()
        _replace(model, place, plain)
    return adapter


def unmerge(model: TransformerLM, adapter: dict[str, LoraLinear]) -> None:
    """Take out again what `merge` added, but for what rounding left, and put the small matrices beside the large ones."""
    for place, module in adapter.items():
        with torch.no_grad():
            module.weight -= module.update()
        _replace(model, place, module)


@contextmanager
def at_scale(model: TransformerLM, scale: float) -> Iterator[None]:
    """Within the block, `model` is in evaluation mode and all its updates count `scale` times; afterwards it is as before."""
    adapter = [module for _, module in _adapted(model)]
    before, was_training = [module.scale for module in adapter], {part: part.training for part in model.modules()}
    try:
        model.eval()
        for module, own in zip(adapter, before, strict=True):
            module.scale = scale * own
        yield
    finally:
        for module, own in zip(adapter, before, strict=True):
            module.scale = own
        for part, training in was_training.items():
            part.training = training


def save_adapter(model: TransformerLM, folder: str | Path) -> None:
    """Write the small matrices alone into `folder`, as `peft` reads them. ValueError if the model has none.

    Of several processes all call this together, for each may hold a part, and process 0 writes.
    """
    small, shapes = {}, set()
    for name, parameter in _small_matrices(model):
        small[name] = processes.whole(parameter).cpu().contiguous()
    for _, module in _adapted(model):
        shapes |= {(len(a), module.scale, name) for name, a in module.down.items()}
    if not small:
        raise ValueError("the model has no adapter to save: add_lora gives it one")
    (rank, scale, _), *_ = shapes
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted(name for *_, name in shapes),
        "bias": "none",
        "lora_dropout": 0.0,
    }
    if processes.rank() > 0:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(small, folder / f".{_WEIGHTS}")
    (folder / f".{_CONFIG}").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in (_WEIGHTS, _CONFIG):  # whole, or not there
        (folder / f".{name}").replace(folder / name)


def load_adapter(model: TransformerLM, folder: str | Path) -> None:
    """Put the adapter that `save_adapter`, or `peft`, wrote into `folder` beside the frozen weights of `model`.

    Raises ValueError for a kind of adapter that is not plain LoRA, for damaged files, and for tensors that are missing, left
    over or of another shape, and names them; the model then has no adapter.
    """
    folder = Path(folder)
    stored = read_json(folder / _CONFIG)
    plain = {"peft_type": "LORA", "bias": "none"}
    odd = {name: stored[name] for name, value in plain.items() if stored.get(name) != value}
    extras = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform")
    odd |= {name: stored[name] for name in extras if stored.get(name)}
    if odd:
        raise ValueError(f"{folder / _CONFIG} describes an adapter that is not plain LoRA: {odd}")
    adapted = stored.get("target_modules")
    targets = tuple(name for name in TARGETS if isinstance(adapted, list) and name in adapted)
    if not targets or len(targets) != len(adapted):
        raise ValueError(f"{folder / _CONFIG} adapts {adapted}; known are {', '.join(TARGETS)}")
    try:
        config = LoraConfig(stored.get("r"), stored.get("lora_alpha"), targets)
        tensors = load_file(folder / _WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the adapter in {folder} is damaged: {error}; save or copy it anew") from None
    add_lora(model, config)
    small = dict(_small_matrices(model))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in small.items()}
    if wrong := [name for name in sorted(shapes | wanted) if shapes.get(name) != wanted.get(name)]:
        merge(model)  # takes the new matrices out again: their update is still 0
        raise ValueError(
            f"{folder / _WEIGHTS} does not fit the model: {', '.join(wrong)} are missing, extra or misshapen"
        )
    with torch.no_grad():
        for name, parameter in small.items():
            parameter.copy_(tensors[name])


def _places(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    return _PLACES | ({} if config.feed_forward in ("swiglu", "geglu") else _UNGATED)


def _sizes(config: TransformerConfig, place: str) -> dict[str, int]:
    """Return the rows that each published matrix takes of ours at `place`, from the top."""
    d_head = config.d_head or config.d_model // config.n_heads
    n_kv_heads = config.n_kv_heads or config.n_heads
    heads, kv_heads = config.n_heads * d_head, n_kv_heads * d_head
    rows = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, "gate_proj": config.d_ff, "up_proj": config.d_ff}
    names = [name.split(".")[1] for name in _places(config)[place]]
    return {name: rows.get(name, config.d_model) for name in names}


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    yield from [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]


def _small_matrices(model: TransformerLM) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every A and B under the name that files give it."""
    places = _places(model.config)
    for path, module in _adapted(model):
        layer, place = re.fullmatch(r"blocks\.(\d+)\.(.+)", path).groups()
        published = {name.split(".")[1]: name for name in places[place]}
        for ours, theirs in _SMALL.items():
            for name, parameter in getattr(module, ours).items():
                yield f"base_model.model.model.layers.{layer}.{published[name]}.{theirs}.weight", parameter


def _replace(root: nn.Module, place: str, module: nn.Module) -> None:
    holder, _, name = place.rpartition(".")
    setattr(root.get_submodule(holder), name, module)
