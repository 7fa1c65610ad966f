"""AttentionStepper: one small attention, number by number: scores, scale, mask, softmax, weighted sum.

The arithmetic that is shown runs in the browser, so that an edited number moves everything downstream at once and without
a kernel; what Python reads back is computed by `course_lib.architecture.attention`. The tests hold the two equal.
"""

from base64 import b64encode
from collections.abc import Sequence

import torch
from anywidget import AnyWidget
from torch import Tensor
from traitlets import Bytes, Dict, Int, List, Unicode, validate

from course_lib.architecture.attention import causal_mask, scaled_dot_product_attention
from course_lib.plots import attention_ramp, chip
from course_lib.widgets.attention_stepper.picture import stepper_picture
from course_lib.widgets.shared.base import module, style_sheet

__all__ = ["LARGEST", "AttentionStepper"]

LARGEST = 6  # positions, and numbers in a vector: what fits on a screen and in a head
RANGE = 1000.0  # no number is larger, in either direction


class AttentionStepper(AnyWidget):
    """Step through softmax(q kᵀ / √d) v for `q` (query, d), `k` (key, d) and `v` (key, d_value), no dimension above 6.

    `mask` is boolean (query, key), True = may attend; `causal` also hides the future, the queries being the last of the
    positions. `tokens` are the keys' texts, and the last of them the queries'. The learner edits any number and any cell of
    the mask; so does setting `q`, `k`, `v` or `mask` from Python. All of them can be read back, as can what follows from
    them: `scores`, `weights` and `output`.

    Raises ValueError for shapes that do not fit or are too large, and for numbers beyond ±1000.

        stepper = AttentionStepper(q, k, v, causal=True, tokens=["The", " cat", " sat"])
        stepper.weights  # (query, key), as the learner's numbers make them
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    numbers = Dict().tag(sync=True)  # "q", "k", "v" and "mask", each a list of rows
    step = Int(0, min=0).tag(sync=True)
    chips = Dict(per_key_traits={"query": List(Unicode()), "key": List(Unicode())}).tag(sync=True)
    ramps = Bytes(attention_ramp("light").tobytes() + attention_ramp("dark").tobytes()).tag(sync=True)

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        tokens: Sequence[str] | None = None,
    ):
        _check_shapes(q, k, v)
        n_queries, n_keys = len(q), len(k)
        visible = torch.ones(n_queries, n_keys, dtype=torch.bool) if mask is None else mask
        _check_mask(visible, (n_queries, n_keys))
        if causal:
            visible = visible & causal_mask(n_queries, n_keys, visible.device)
        super().__init__(
            numbers={"q": q.tolist(), "k": k.tolist(), "v": v.tolist(), "mask": visible.tolist()},
            chips=_labels(tokens, n_queries, n_keys),
        )

    @property
    def q(self) -> Tensor:
        """The queries (query, d)."""
        return torch.tensor(self.numbers["q"], dtype=torch.float32)

    @property
    def k(self) -> Tensor:
        """The keys (key, d)."""
        return torch.tensor(self.numbers["k"], dtype=torch.float32)

    @property
    def v(self) -> Tensor:
        """The values (key, d_value)."""
        return torch.tensor(self.numbers["v"], dtype=torch.float32)

    @property
    def mask(self) -> Tensor:
        """The boolean mask (query, key), True = may attend."""
        return torch.tensor(self.numbers["mask"])

    @q.setter
    def q(self, rows: Tensor) -> None:
        self._set("q", rows)

    @k.setter
    def k(self, rows: Tensor) -> None:
        self._set("k", rows)

    @v.setter
    def v(self, rows: Tensor) -> None:
        self._set("v", rows)

    @mask.setter
    def mask(self, rows: Tensor) -> None:
        self._set("mask", rows)

    @property
    def scores(self) -> Tensor:
        """q kᵀ (query, key): before the scale and the mask."""
        return self.q @ self.k.T

    @property
    def weights(self) -> Tensor:
        """The attention weights (query, key); a row with nothing to attend to is zero."""
        return self._attend()[1]

    @property
    def output(self) -> Tensor:
        """The weighted sum of the values (query, d_value)."""
        return self._attend()[0]

    def __repr__(self) -> str:
        (n_queries, d), (n_keys, d_value) = self.q.shape, self.v.shape
        hidden = int((~self.mask).sum())
        size = f"{n_queries} queries × {n_keys} keys, d = {d}, d_value = {d_value}"
        return f"AttentionStepper: {size}, {hidden} of {n_queries * n_keys} pairs masked"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = stepper_picture(self.q, self.k, self.v, self.weights, self.output, self.chips)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    def _attend(self) -> tuple[Tensor, Tensor]:
        q, k, v = (x[None, None] for x in (self.q, self.k, self.v))
        output, weights = scaled_dot_product_attention(q, k, v, self.mask, return_weights=True)
        return output[0, 0], weights[0, 0]

    def _set(self, name: str, rows: Tensor) -> None:
        before = torch.tensor(self.numbers[name])
        if rows.shape != before.shape:
            raise ValueError(f"{name} must keep its shape {tuple(before.shape)}, not become {tuple(rows.shape)}")
        if name == "mask":
            _check_mask(rows, before.shape)
        self.numbers = self.numbers | {name: rows.tolist()}

    @validate("numbers")
    def _valid_numbers(self, proposal) -> dict:
        for name in ("q", "k", "v"):
            if not (torch.tensor(proposal["value"][name]).abs() <= RANGE).all():
                raise ValueError(f"every number of {name} must lie in −{RANGE:.0f} … {RANGE:.0f}")
        return proposal["value"]


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 2 or q.shape[1] != k.shape[1] or len(k) != len(v):
        raise ValueError(f"wanted q (query, d), k (key, d) and v (key, d_value); {shapes}")
    sizes = (*q.shape, *k.shape, *v.shape)
    if min(sizes) < 1 or max(sizes) > LARGEST:
        raise ValueError(f"every dimension must be 1 … {LARGEST}, so that each number can be read; {shapes}")


def _check_mask(mask: Tensor, shape: tuple[int, int]) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean with True = may attend, not {mask.dtype}; `mask == 1` converts one")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"mask must have a row for each query and a column for each key, {shape}, not {mask.shape}")


def _labels(tokens: Sequence[str] | None, n_queries: int, n_keys: int) -> dict[str, list[str]]:
    """Return what stands beside the rows: the tokens, or the positions 0, 1, …"""
    if tokens is None:
        return {"query": [str(i) for i in range(n_queries)], "key": [str(i) for i in range(n_keys)]}
    if len(tokens) != n_keys or n_queries > n_keys:
        raise ValueError(f"{n_keys} keys need as many tokens, the queries being the last of them; got {len(tokens)}")
    chips = [chip(token) for token in tokens]
    return {"query": chips[n_keys - n_queries :], "key": chips}
