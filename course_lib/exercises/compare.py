"""What an answer gave: run it safely, and say where it first differs from what was wanted."""

import copy
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Changed",
    "Difference",
    "Loss",
    "Raised",
    "Used",
    "call",
    "describe",
    "first_difference",
    "gradient_by_differences",
]


@dataclass(frozen=True)
class Raised:
    """An exception as a result: two are equal if they are of one kind with one message, wherever they were raised."""

    kind: str
    message: str
    line: str = field(compare=False)  # the learner's own line, "line 4: `scores = q @ k`", or "" where it is not known


@dataclass(frozen=True)
class Changed:
    """In the place of a result: the function wrote into its argument number `place`, counted from 0."""

    place: int


@dataclass(frozen=True)
class Loss:
    """A loss as a result: its value, and its gradient, in the shape of the argument that is learned."""

    value: object
    gradient: Tensor


@dataclass(frozen=True)
class Difference:
    """Where two results part: `what` is a sentence, `got` and `wanted` are the two sides as text."""

    what: str
    got: str
    wanted: str


@dataclass(frozen=True)
class Used:
    """A class as a function of the arguments: `use` makes an object of it, and returns what that gives."""

    made: type
    use: Callable

    def __call__(self, *arguments: object) -> object:
        return self.use(self.made, *arguments)


def call(function: Callable, arguments: tuple, learned: int | None = None) -> object:
    """Return what `function` returns for a copy of `arguments`, what it raised as a `Raised`, or that it `Changed` one.

    Only tensors, dictionaries and lists count as changed: a model and its optimizer may be there to be trained. Where the
    argument number `learned` is a tensor that gets a gradient, a tensor that is returned is a `Loss`. Whoever is given the same
    tensor twice gets it twice.
    """
    given, leaf = copy.deepcopy(arguments), None
    if learned is not None:
        leaf = given[learned].clone().requires_grad_()
        of_policy = leaf.clone()  # as a model gives it: from weights that get the gradient
        given = tuple(of_policy if argument is given[learned] else argument for argument in given)
    try:
        result = function(*given)
    except Exception as error:
        return Raised(type(error).__name__, str(error), _line(error, function))
    pairs = enumerate(zip(arguments, given, strict=True))
    changed = next((Changed(place) for place, (before, after) in pairs if not _untouched(before, after)), None)
    if changed or leaf is None or not isinstance(result, Tensor):
        return changed or result
    return Loss(result, _gradient(result, leaf))


def gradient_by_differences(function: Callable, arguments: tuple, learned: int, step: float = 1e-5) -> Tensor:
    """Return the gradient of a number, `function` of `arguments`, with regard to argument number `learned`, in float64.

    Central differences: each number of that argument is moved by `step` to both sides, and all else is left as it is.
    """
    at = arguments[learned].double()
    gradient = torch.zeros_like(at)
    for place in range(at.numel()):
        sides = []
        for move in (step, -step):
            moved = at.clone()
            moved.view(-1)[place] += move
            sides.append(function(*arguments[:learned], moved, *arguments[learned + 1 :]))
        gradient.view(-1)[place] = (sides[0] - sides[1]) / (2 * step)
    return gradient


def first_difference(got: object, wanted: object, names: tuple[str, ...], tolerance: float) -> Difference | None:
    """Return where `got` first differs from `wanted` by more than the relative `tolerance`, or None.

    `names` are what the learner calls the results: one for a single result, several for a tuple. NaN equals NaN, and a
    NumPy array counts as the tensor of its numbers: what it says about the answer is then the same.
    """
    if isinstance(wanted, Loss):
        return _loss_difference(got, wanted, names[0], tolerance)
    got = got.value if isinstance(got, Loss) else got
    if isinstance(wanted, tuple) and len(names) > 1:
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            return Difference(f"It should return {len(wanted)} things", describe(got), f"({', '.join(names)})")
        parts = zip(got, wanted, names, strict=True)
        return next((d for g, w, name in parts if (d := first_difference(g, w, (name,), tolerance))), None)
    if isinstance(wanted, dict) and any(isinstance(value, Tensor) for value in wanted.values()):
        return _entry_difference(got, wanted, names[0], tolerance)
    got = _as_tensor(got)
    if isinstance(wanted, Tensor):
        return _tensor_difference(got, wanted, names[0], tolerance)
    if isinstance(wanted, Real):
        got = _as_number(got)
        if not isinstance(got, Real):
            return Difference(f"`{names[0]}` should be a number", describe(got), "a number")
        wanted, got = (torch.tensor(_as_float(number), dtype=torch.float64) for number in (wanted, got))
        return _tensor_difference(got, wanted, names[0], tolerance)
    return None if _equal(got, wanted) else Difference(f"`{names[0]}` differs", describe(got), describe(wanted))


def _loss_difference(got: object, wanted: Loss, name: str, tolerance: float) -> Difference | None:
    """Say where two losses part: by their values, or else by the first entry of their gradients that differs."""
    if not isinstance(got, Loss):  # a plain number has no gradient
        got = Loss(got, torch.zeros_like(wanted.gradient))
    different = first_difference(got.value, wanted.value, (name,), tolerance)
    if different:
        return different
    different = _tensor_difference(got.gradient, wanted.gradient, "gradient", tolerance)
    return different and replace(different, what=f"`{name}` is right, but its gradient is not: {different.what}")


def _entry_difference(got: object, wanted: dict, name: str, tolerance: float) -> Difference | None:
    """Say where two dictionaries of tensors part: by their keys, or by the first entry that differs."""
    if not isinstance(got, dict):
        return Difference(f"`{name}` should be a dictionary", describe(got), describe(wanted))
    odd = [f"lacks {key!r}" for key in wanted if key not in got] + [f"has {key!r}" for key in got if key not in wanted]
    if odd:
        return Difference(f"`{name}` {odd[0]}", f"{len(got)} keys", f"{len(wanted)} keys")
    entries = ((got[key], wanted[key], f"{name}[{key!r}]") for key in wanted)
    return next((d for g, w, entry in entries if (d := first_difference(g, w, (entry,), tolerance))), None)


def describe(value: object) -> str:
    """Say in a few words what `value` is."""
    if isinstance(value, Tensor):
        return f"a tensor {_shape(value)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, list):
        return f"a list of length {len(value)}"
    if value is None or isinstance(value, Real):
        return _written(value, str)
    if isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values()):
        return f"a dictionary of {len(value)} tensors"
    if isinstance(value, str | dict):
        return _written(value, repr)
    return _type(value)


def _tensor_difference(got: object, wanted: Tensor, name: str, tolerance: float) -> Difference | None:
    if not isinstance(got, Tensor):
        return Difference(f"`{name}` should be a tensor", describe(got), describe(wanted))
    if got.shape != wanted.shape:
        return Difference(f"`{name}` has the wrong shape", _shape(got), _shape(wanted))
    if _kind(got) != _kind(wanted):
        return Difference(f"`{name}` has the wrong dtype", str(got.dtype), str(wanted.dtype))
    numbers, wanted = _numbers(got), _numbers(wanted)
    if numbers is None:
        return Difference(f"`{name}` holds no numbers", f"{describe(got)} on the device {got.device}", describe(wanted))
    got = numbers
    largest = wanted[wanted.isfinite()].abs().amax().item() if wanted.isfinite().any() else 0.0
    # where large terms cancel, float32 is off by its last digits of those: more than of the small number that is left
    same = torch.isclose(got, wanted, rtol=tolerance, atol=1e-6 * (1 + largest), equal_nan=True)
    if same.all():
        return None
    place = tuple((~same).nonzero()[0].tolist())
    entry = f"{name}[{', '.join(map(str, place))}]" if place else name
    return Difference(f"`{entry}` is wrong", f"{got[place].item():.4g}", f"{wanted[place].item():.4g}")


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    try:
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)
    except RuntimeError:  # it is no single number, or does not depend on anything that is learned
        gradient = None
    return torch.zeros_like(leaf) if gradient is None else gradient


def _as_tensor(value: object) -> object:
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(value.copy())  # a copy, for a tensor cannot run backwards as a flipped array does
    except TypeError:  # it holds no numbers
        return value


def _numbers(tensor: Tensor) -> Tensor | None:
    """Return the tensor's numbers in float64 where they can be compared; None if it has none, as on the device meta."""
    try:
        return tensor.detach().to_dense().cpu().double()
    except RuntimeError:
        return None


def _untouched(before: object, after: object) -> bool:
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.equal(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_untouched(before[key], after[key]) for key in before)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_untouched, before, after))
    return before == after if isinstance(before, Real | str) else True  # a model may be there to be trained


def _equal(got: object, wanted: object) -> bool:
    try:
        return bool(got == wanted)
    except (
        Exception
    ):  # an array has no single truth value, nor has a collection that holds one; a class may do anything
        return False


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Return what no tolerance bridges: whether the tensor holds truth values, and whether complex numbers."""
    return tensor.dtype == torch.bool, tensor.is_complex()


def _as_number(value: object) -> object:
    try:
        return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    except RuntimeError:  # it has none, as on the device meta
        return value


def _as_float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _written(value: object, write: Callable[[object], str]) -> str:
    """Return the beginning of what `write` makes of `value`, or its type: Python writes no number of 5,000 digits."""
    try:
        text = write(value)
    except Exception:
        return _type(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _type(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return f"of shape {tuple(tensor.shape)}"


def _line(error: Exception, function: Callable) -> str:
    parts = vars(function.made).values() if isinstance(function, Used) else [function]
    file = next((part.__code__.co_filename for part in parts if hasattr(part, "__code__")), None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {own[-1].lineno}: `{own[-1].line}`" if own else ""
