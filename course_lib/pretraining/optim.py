"""How weights move: AdamW and Muon, the learning rate over time, and a limit on the gradient's length.

An optimizer turns each weight's gradient into a step. AdamW divides it, number by number, by its usual size. Muon looks at a
matrix as a whole: it takes the step that changes every direction equally. Both keep a running mean of past gradients, the
momentum, so that what alternates from batch to batch cancels out.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_lib.devices import pick_dtype
from course_lib.pretraining.processes import is_sharded, rows, whole

__all__ = ["AdamW", "Muon", "clip_gradients", "cosine", "for_model", "orthogonalise", "warmup_stable_decay"]

Parameters = Iterable[Tensor] | Iterable[dict]
"""Parameters, or groups of them: dicts with "params" and the settings that are the group's own."""

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at 0, so that five rounds lift small singular values too (Jordan 2024)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv 1412.6980, arXiv 1711.05101).

    The mean of past gradients, divided by the root of the mean of their squares: where a gradient keeps its sign the step
    is `lr`, whatever its size, and where it alternates it is near 0. Both means begin at 0 and are divided by what they lack of
    a whole mean. Then every weight of `weight_decay` > 0 shrinks by lr · weight_decay of itself.

    A group with `is_table` holds look-up tables of which a step uses few rows. All others, whose gradient is 0, stay as they
    are, and so do their means, as in torch.optim.SparseAdam: else a row that was used once would go on moving, and every step
    would read and write the whole table.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "is_table": False}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                state = self.state[weight]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
                state["step"] += 1
                moving = weight, weight.grad, state["mean"], state["square"]
                if not group["is_table"]:
                    _move(*moving, state["step"], group)
                    continue
                here = [rows(table)[0] for table in moving]
                used = here[1].any(dim=1).nonzero()[:, 0]
                moved = [table[used] for table in here]
                _move(*moved, state["step"], group)
                for table, new in zip(here, moved, strict=True):
                    table[used] = new


def _move(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, group: dict) -> None:
    lr, (beta1, beta2) = group["lr"], group["betas"]
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    size = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    weight.mul_(1 - lr * group["weight_decay"])
    weight.addcdiv_(mean, size, value=-lr / (1 - beta1**step))


class Muon(Optimizer):
    """Momentum, orthogonalised, for matrices (Jordan 2024, https://kellerjordan.github.io/posts/muon; arXiv 2502.16982).

    A gradient matrix is mostly made of a few strong directions. Muon replaces its momentum U S Vᵀ by about U Vᵀ, so that the
    weak ones are learned as fast; the step's length no longer depends on the gradient's. A matrix with more rows than columns
    steps √(rows / columns) times as far. The momentum looks ahead as Nesterov's does. Then weights decay as in AdamW.

    Each matrix is taken whole, merged ones too: query, key and value apart gained 0.01 nats a character in a model of 2 layers.
    Those of one shape are orthogonalised together, in one batch of products.
    Raises ValueError for a parameter that is no matrix.
    """

    def __init__(self, parameters: Parameters, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            if weight.ndim != 2:
                raise ValueError(
                    f"Muon moves matrices; one parameter has shape {tuple(weight.shape)}: give it to AdamW"
                )

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                alike[weight.shape].append(weight)
            for (n_rows, n_columns), weights in alike.items():
                lr = group["lr"] * max(1, n_rows / n_columns) ** 0.5
                directions = orthogonalise(torch.stack([self._momentum(w, group["momentum"]) for w in weights]))
                for weight, direction in zip(weights, directions, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(_lying_as(direction.to(weight.dtype), weight), alpha=lr)

    def _momentum(self, weight: Tensor, momentum: float) -> Tensor:
        """Return the whole matrix, even where each process holds some of its rows only: directions have no rows."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight.grad)
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        return whole(weight.grad.lerp(state["momentum"], momentum))


def orthogonalise(matrices: Tensor, n_iterations: int = 5) -> Tensor:
    """Return about U Vᵀ of each of `matrices` (…, rows, columns) = U S Vᵀ, without computing a decomposition.

    Newton–Schulz iteration: X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X leaves U and V alone and sends each singular value s to
    a s + b s³ + c s⁵, towards 1. Five rounds bring every one above some hundredth of the largest to between 0.7 and 1.2,
    which is near enough. It is products of matrices only: what GPUs are good at, in bfloat16 if they compute in it.
    """
    a, b, c = _QUINTIC
    x = matrices.to(pick_dtype(matrices.device)).reshape(-1, *matrices.shape[-2:])
    if is_tall := x.shape[-2] > x.shape[-1]:
        x = x.mT  # the smaller of X Xᵀ and Xᵀ X costs less
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # now no singular value is above 1
    for _ in range(n_iterations):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b X Xᵀ + c (X Xᵀ)²
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a X + polynomial X
    return (x.mT if is_tall else x).reshape(matrices.shape)


def _lying_as(matrix: Tensor, weight: Tensor) -> Tensor:
    """Return all of `matrix` as `weight` lies: here, or each process its rows."""
    if not is_sharded(weight):
        return matrix
    from torch.distributed.tensor import distribute_tensor  # who trains alone never waits for this import

    return distribute_tensor(matrix, weight.device_mesh, weight.placements, src_data_rank=None)  # each has the whole


def for_model(
    model: nn.Module, *, learning_rate: float, muon_learning_rate: float | None, weight_decay: float
) -> list[Optimizer]:
    """Return the optimizers of a `TransformerLM`: Muon for the matrices of its blocks, AdamW for all else.

    Embeddings are look-up tables, whose rows mean nothing to each other, so Muon is not for them. With `muon_learning_rate`
    None, AdamW moves everything. Norms, biases and the table of n-grams do not decay, and the table moves half as fast: most
    of its rows are used a few times only, and whole steps from so few examples learn them by heart. Frozen parameters are
    left out; ValueError if all are frozen.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not weights:
        raise ValueError("every weight of the model is frozen; model.requires_grad_() sets them free")
    for_muon = [
        w for name, w in weights.items() if muon_learning_rate is not None and "blocks." in name and w.ndim == 2
    ]
    tables = [weight for name, weight in weights.items() if name.endswith("ngrams.table")]
    chosen = {*for_muon, *tables}
    rest = [weight for weight in weights.values() if weight not in chosen]
    groups = [
        {"params": tables, "weight_decay": 0.0, "is_table": True, "lr": learning_rate / 2},
        {"params": [weight for weight in rest if weight.ndim >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in rest if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers = [Muon(for_muon, lr=muon_learning_rate, weight_decay=weight_decay)] if for_muon else []
    if tables or rest:
        optimizers.append(AdamW([group for group in groups if group["params"]], lr=learning_rate))
    return optimizers


# ---------------------------------------------------------------- the learning rate over time, as a share of the highest


def cosine(step: int, n_steps: int, warmup: int = 0, lowest: float = 0.0) -> float:
    """Return a factor that rises in `warmup` steps to 1, then falls along half a cosine to `lowest` (arXiv 1608.03983).

    `step` counts from 0. It has to be known beforehand how long the training will be.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, n_steps - warmup)
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * min(done, 1))) / 2


def warmup_stable_decay(step: int, n_steps: int, warmup: int = 0, decay: float = 0.4) -> float:
    """Return a factor that rises in `warmup` steps to 1, stays there, and falls to 0 in the last share `decay` of the steps.

    `step` counts from 0. Until the decay begins, the training may be made longer (arXiv 2404.06395, section 4).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, (n_steps - step) / max(1, decay * n_steps))


# ---------------------------------------------------------------- the gradient


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Shorten the gradient, all parameters' together, to `max_norm` if it is longer (arXiv 1211.5063); return its length.

    One batch with a huge gradient then cannot throw the weights far off.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm
