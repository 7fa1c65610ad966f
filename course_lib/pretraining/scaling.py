"""Training at scale in arithmetic: how the loss falls with size and data, and what a run takes in memory, days and money.

Everything here is a formula and takes no time: plan before you compute. The tests hold it to published figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig
from course_lib.architecture.accounting import step_flops
from course_lib.checks import check, check_fields

__all__ = [
    "CHINCHILLA",
    "GPUS",
    "PRECISIONS",
    "PUBLISHED",
    "REPLICATION",
    "Gpu",
    "Plan",
    "PowerLaw",
    "Precision",
    "Published",
    "Run",
    "ScalingLaw",
    "activation_bytes",
    "exact_training_flops",
    "fit_power_law",
    "fit_scaling_law",
    "plan",
    "state_bytes",
    "training_flops",
    "utilisation",
]

# ---------------------------------------------------------------- how the loss falls


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + scale / size^exponent, in nats a token: what no size removes, and what size removes."""

    floor: float
    scale: float
    exponent: float

    def loss(self, size):
        """Return the loss at `size` (a number or an array)."""
        return self.floor + self.scale / size**self.exponent


@dataclass(frozen=True)
class ScalingLaw:
    """loss = E + A / N^α + B / D^β for N parameters and D tokens (Hoffmann et al. 2022, arXiv 2203.15556, equation 2)."""

    floor: float  # E: the entropy of the text itself
    size_scale: float  # A
    size_exponent: float  # α
    data_scale: float  # B
    data_exponent: float  # β

    def loss(self, parameters, tokens):
        """Return the loss in nats a token (numbers or arrays)."""
        of_size = self.size_scale / parameters**self.size_exponent
        return self.floor + of_size + self.data_scale / tokens**self.data_exponent

    def optimum(self, flops: float) -> tuple[float, float]:
        """Return the parameters and tokens of least loss that cost `flops` = 6 N D (equation 4).

        Where the loss is least, a small shift of compute from size to data gains as much as it loses:
        α A / N^α = β B / D^β. With D = C / 6N that leaves N = (αA / βB)^(1/(α+β)) · (C/6)^(β/(α+β)).
        """
        alpha, beta = self.size_exponent, self.data_exponent
        balance = (alpha * self.size_scale / (beta * self.data_scale)) ** (1 / (alpha + beta))
        parameters = balance * (flops / 6) ** (beta / (alpha + beta))
        return parameters, flops / (6 * parameters)


CHINCHILLA = ScalingLaw(1.69, 406.4, 0.34, 410.7, 0.28)
"""As published in arXiv 2203.15556, appendix D.3. Its optima are smaller models than those of the paper's other two methods."""

REPLICATION = ScalingLaw(1.8172, 482.01, 0.3478, 2085.43, 0.3658)
"""The same law fitted again to the same runs, read off the paper's figures (Besiroglu et al. 2024, arXiv 2404.10102)."""


def fit_power_law(sizes: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """Fit loss = floor + scale / size^exponent; three sizes are the least, and more are better, far apart.

    `sizes` may be parameters, tokens or FLOPs. ValueError if there are too few, or numbers that are not positive.
    """
    floor, (scale,), (exponent,) = _fit([sizes], losses)
    return PowerLaw(floor, scale, exponent)


def fit_scaling_law(parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float]) -> ScalingLaw:
    """Fit loss = E + A / N^α + B / D^β to runs in which both `parameters` and `tokens` vary; five runs are the least."""
    floor, (a, b), (alpha, beta) = _fit([parameters, tokens], losses)
    return ScalingLaw(floor, a, alpha, b, beta)


def _fit(sizes: list[Sequence[float]], losses: Sequence[float]) -> tuple[float, list[float], list[float]]:
    """Return the floor, and for each kind of size its scale and exponent: the method of arXiv 2203.15556, appendix D.3.

    The logarithm of the loss is fitted, as a log-sum-exp of its terms, so that every run counts by its relative error. Huber's
    loss keeps a run gone wrong from pulling the curve to itself, and L-BFGS starts from many places, for it may get stuck.
    """
    logs = torch.tensor([[float(size) for size in kind] for kind in sizes], dtype=torch.float64)
    wanted = torch.tensor([float(loss) for loss in losses], dtype=torch.float64)
    kinds, runs = logs.shape
    if runs != len(wanted) or runs < 1 + 2 * kinds:
        raise ValueError(f"{runs} sizes and {len(wanted)} losses: give as many of both, and {1 + 2 * kinds} or more")
    if not all(((numbers > 0) & numbers.isfinite()).all() for numbers in (logs, wanted)):
        raise ValueError("sizes and losses must be above 0 and finite: their logarithms are fitted")
    logs, wanted = logs.log(), wanted.log()
    centres = logs.mean(1, keepdim=True)  # counted from their middle, scale and exponent hardly depend on each other

    def error(guess: Tensor) -> Tensor:
        floor, heights, exponents = guess.split([1, kinds, kinds])
        terms = heights[:, None] - exponents[:, None] * (logs - centres)
        predicted = torch.cat([floor[:, None].expand(1, runs), terms]).logsumexp(0)
        return F.huber_loss(predicted, wanted, delta=1e-3, reduction="sum") * 1e3

    best = min((_descend(error, start) for start in _starts(wanted.min(), kinds)), key=error)
    floor, heights, exponents = best.split([1, kinds, kinds])
    scales = heights + exponents * centres[:, 0]
    return floor.exp().item(), scales.exp().tolist(), exponents.tolist()


def _starts(lowest: Tensor, kinds: int) -> list[Tensor]:
    """Return first guesses: a floor below the lowest loss (all as logarithms), and the rest shared by the other terms."""
    return [
        torch.tensor([lowest + torch.log(torch.tensor(share)), *[height] * kinds, *[exponent] * kinds]).double()
        for share, height, exponent in product((0.5, 0.9), (-2.0, 0.0), (0.2, 0.5, 1.0))
    ]


def _descend(error, start: Tensor) -> Tensor:
    guess = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [guess], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = error(guess)
        value.backward()
        return value

    optimizer.step(closure)
    return guess.detach()


# ---------------------------------------------------------------- operations


def training_flops(parameters: float, tokens: float) -> float:
    """Return 6 N D: 2 operations a parameter and token forward, 4 backward (Kaplan et al. 2020, arXiv 2001.08361).

    For a mixture of experts, `parameters` are those that one token meets.
    """
    return 6 * parameters * tokens


def exact_training_flops(config: TransformerConfig, tokens: float) -> float:
    """Return what `accounting.step_flops` counts for full contexts that hold so many `tokens`, attention and all."""
    return step_flops(config, 1, config.context_length) / config.context_length * tokens


# ---------------------------------------------------------------- memory

Recompute = Literal["nothing", "attention", "layers"]


@dataclass(frozen=True)
class Precision:
    """How many bytes training keeps for each parameter."""

    weights: int
    gradients: int
    optimizer: int  # Adam's two moments, and the weights in full where those above are rounded

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


PRECISIONS = {
    "float32": Precision(4, 4, 8),
    "bfloat16": Precision(2, 2, 12),  # with float32 weights and moments aside: arXiv 1910.02054, section 3.1, K = 12
    "float8": Precision(1, 4, 8),  # DeepSeek-V3 (arXiv 2412.19437, section 3.3): float32 weights, bfloat16 moments
}


def state_bytes(parameters: float, precision: Precision, stage: int, n_data: int) -> dict[str, float]:
    """Return the bytes on each of `n_data` GPUs that hold the same `parameters`, by ZeRO stage (arXiv 1910.02054, figure 1).

    Stage 0 keeps everything on every GPU; 1 splits the optimizer's states among them, 2 the gradients too, 3 the weights too
    (PyTorch's FSDP).
    """
    check("parameters", parameters, float, 0)
    check("stage", stage, int, 0, 3)
    check("n_data", n_data)
    return {
        "weights": parameters * precision.weights / (n_data if stage == 3 else 1),
        "gradients": parameters * precision.gradients / (n_data if stage >= 2 else 1),
        "optimizer": parameters * precision.optimizer / (n_data if stage >= 1 else 1),
    }


def activation_bytes(
    n_layers: int, d_model: int, n_heads: int, positions: int, *, sequences: int = 1, recompute: Recompute = "attention"
) -> float:
    """Return the bytes of activations in 16 bits that wait for the backward pass (Korthikanti et al. 2022, arXiv 2205.05198).

    A layer keeps s·b·h·(34 + 5·a·s/h) bytes (equation 1): s `positions`, b `sequences`, h `d_model`, a `n_heads`, for a
    feed-forward network 4 h wide and with dropout. The second term is the attention matrices; recomputing "attention" (as
    FlashAttention does) drops it. Recomputing whole "layers" keeps only what enters each: 2·s·b·h, for a third more operations.
    """
    sizes = (n_layers, d_model, n_heads, positions, sequences)
    for name, size in zip(("n_layers", "d_model", "n_heads", "positions", "sequences"), sizes, strict=True):
        check(name, size)
    check("recompute", recompute, Recompute)
    matrices = 5 * n_heads * positions / d_model
    factor = {"nothing": 34 + matrices, "attention": 34, "layers": 2}[recompute]
    return n_layers * positions * sequences * d_model * factor


# ---------------------------------------------------------------- a run

_MOST = 1e30  # parameters, tokens or dollars: nothing is beyond, and the product of some such numbers is finite


@dataclass(frozen=True)
class Gpu:
    """What the maker states: operations a second in bfloat16 without sparsity, bytes, bytes a second, watts."""

    flops: float
    memory: float
    bandwidth: float
    link: float  # to the other GPUs of its machine, in each direction
    watts: float


GPUS = {
    "A100": Gpu(312e12, 80e9, 2.04e12, 300e9, 400),  # NVIDIA A100 80GB SXM datasheet, 2021
    "H100": Gpu(989e12, 80e9, 3.35e12, 450e9, 700),  # NVIDIA H100 SXM datasheet, 2023
    "H800": Gpu(989e12, 80e9, 3.35e12, 200e9, 700),  # the H100 with slower links (arXiv 2505.09343)
    "H200": Gpu(989e12, 141e9, 4.8e12, 450e9, 700),  # NVIDIA H200 SXM datasheet, 2024
}


@dataclass(frozen=True)
class Run:
    """A training run. Its GPUs are `tensor` × `pipeline` to a copy of the model, and as many copies as that leaves.

    Of a mixture of experts, one token meets `active` of the `parameters`; `expert_parameters` belong to the experts, which
    `expert` GPUs of different copies share out among themselves. `n_layers` and `d_model` may be left out: 12 L d² parameters
    with d = 128 L are close to how large models are built (Llama 3 405B: 126 layers of 16,384).
    """

    parameters: float
    tokens: float
    active: float | None = None
    expert_parameters: float = 0.0
    gpu: str = "H100"
    n_gpus: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    stage: int = 0
    precision: str = "bfloat16"
    recompute: Recompute = "attention"
    context_length: int = 4096
    sequences: int = 1  # in one micro-batch
    n_layers: int | None = None
    d_model: int | None = None
    mfu: float = 0.4  # the share of the GPU's bfloat16 operations that the model's own 6 N D make up
    price: float = 2.0  # dollars a GPU hour

    def __post_init__(self):
        amount, part = (1, _MOST), (0, self.parameters)  # of which the check comes first
        limits = {"parameters": amount, "tokens": amount, "active": (1, self.parameters), "expert_parameters": part}
        check_fields(self, **limits, stage=(0, 3), mfu=(1e-6, 1), price=(0, _MOST))
        for name, known in (("gpu", GPUS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.n_gpus % (self.tensor * self.pipeline * self.expert):
            split = f"{self.tensor} × {self.pipeline} × {self.expert}"
            raise ValueError(f"{self.n_gpus} GPUs do not divide into groups of tensor × pipeline × expert = {split}")

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and width, as given or as guessed from the parameters."""
        layers = self.n_layers or max(1, round((self.parameters / (12 * 128**2)) ** (1 / 3)))
        return layers, self.d_model or 128 * layers


@dataclass(frozen=True)
class Plan:
    """What a run takes: operations, time, money and energy in all, and bytes on each GPU by what they are for."""

    flops: float
    gpu_hours: float
    days: float
    dollars: float
    megawatt_hours: float  # of the GPUs alone: machines, network and cooling come on top
    memory: dict[str, float] = field(default_factory=dict)
    room: float = 0.0  # the GPU's memory, of which the framework needs some too

    @property
    def fits(self) -> bool:
        return sum(self.memory.values()) <= self.room


def plan(run: Run) -> Plan:
    """Return what `run` takes. It never fails or waits: interruptions, evaluations and repeated runs come on top."""
    gpu = GPUS[run.gpu]
    flops = training_flops(run.active or run.parameters, run.tokens)
    hours = flops / (gpu.flops * run.mfu) / 3600
    return Plan(
        flops=flops,
        gpu_hours=hours,
        days=hours / run.n_gpus / 24,
        dollars=hours * run.price,
        megawatt_hours=hours * gpu.watts / 1e6,
        memory=_memory(run),
        room=gpu.memory,
    )


@dataclass(frozen=True)
class Published:
    """A run that was published, and the figures that its makers state; None: they do not."""

    run: Run
    source: str
    note: str
    flops: float | None = None
    gpu_hours: float | None = None
    days: float | None = None
    dollars: float | None = None


PUBLISHED = {
    "Llama 3 405B": Published(
        Run(
            parameters=405e9, tokens=15.6e12, gpu="H100", n_gpus=16_384, tensor=8, pipeline=16, stage=2,
            context_length=8192, n_layers=126, d_model=16_384, mfu=0.41,
        ),
        source="arXiv 2407.21783, sections 3.2 and 3.3 (table 4: MFU 38 to 43 %); GPU hours: the model card",
        note="The GPU hours are those of all training, with its interruptions; a dollar price was not published.",
        flops=3.8e25,
        gpu_hours=30.84e6,
    ),
    "DeepSeek-V3": Published(
        Run(
            parameters=671e9, active=37e9, tokens=14.8e12, expert_parameters=58 * 256 * 3 * 7168 * 2048, gpu="H800",
            n_gpus=2048, pipeline=16, expert=64, stage=1, precision="float8", n_layers=61, d_model=7168, mfu=0.35,
        ),
        source="arXiv 2412.19437, table 1 and sections 3.2, 3.3 and 4.2",
        note="The report states no MFU: 35 % of the bfloat16 peak is what its GPU hours come to.",
        gpu_hours=2.664e6,
        days=2.664e6 / 2048 / 24,
        dollars=2.664e6 * 2,
    ),
}  # fmt: skip
"""Two large runs whose costs are known. DeepSeek-V3's experts: 58 layers with 256 of three matrices, 7168 × 2048 each."""


def utilisation(flops: float, gpu_hours: float, gpu: Gpu) -> float:
    """Return the share of their peak at which GPUs made `flops` in so many hours: the MFU, with every interruption counted."""
    return flops / (gpu_hours * 3600 * gpu.flops)


def _memory(run: Run) -> dict[str, float]:
    """Return the bytes on the GPU that holds most: weights, gradients, optimizer states, activations.

    A pipeline's first GPU holds the activations of as many micro-batches as there are stages, each for its share of the layers:
    as much as one micro-batch takes in all layers. Tensor parallelism splits them (with sequence parallelism, as in the paper).
    """
    model_split = run.tensor * run.pipeline
    copies = run.n_gpus // model_split
    precision = PRECISIONS[run.precision]
    shared = state_bytes((run.parameters - run.expert_parameters) / model_split, precision, run.stage, copies)
    own = run.expert_parameters / (model_split * run.expert)
    experts = state_bytes(own, precision, run.stage, copies // run.expert)
    layers, width = run.shape
    heads = max(1, width // 128)
    activations = activation_bytes(
        layers, width, heads, run.context_length, sequences=run.sequences, recompute=run.recompute
    )
    return {name: shared[name] + experts[name] for name in shared} | {"activations": activations / run.tensor}
