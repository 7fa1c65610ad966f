"""Exercise 03.3: the gated feed-forward network."""

import math

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_SWIGLU"]


def _feed_forward_inputs(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, position, d_model), w_gate and w_up (d_model, d_ff) and w_down (d_ff, d_model)."""
    sizes = [(2, 5, 7, 11), (3, 4, 6, 8), (1, 9, 5, 3)]
    return [
        (
            torch.randn(batch, position, d_model, generator=generator),
            *torch.randn(2, d_model, d_ff, generator=generator) / math.sqrt(d_model / 4),
            torch.randn(d_ff, d_model, generator=generator),
        )
        for batch, position, d_model, d_ff in sizes
    ]


def _unit_by_unit(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """Add up what each of the d_ff hidden units writes: how far it is on, times its own row of w_down."""
    out = torch.zeros_like(x)
    for gate_column, up_column, row in zip(w_gate.unbind(1), w_up.unbind(1), w_down.unbind(0), strict=True):
        gate = torch.einsum("bpd,d->bp", x, gate_column)
        unit = gate / (1 + torch.exp(-gate)) * torch.einsum("bpd,d->bp", x, up_column)
        out = out + unit[..., None] * row
    return out


_SIGNATURE = '''\
def swiglu(x, w_gate, w_up, w_down):
    """Llama's and SmolLM2's feed-forward network: x (batch, position, d_model) -> the same shape.

    w_gate and w_up (d_model, d_ff), w_down (d_ff, d_model). No biases.
    """
'''


def _gated(
    hidden: str = "F.silu(gate) * up", result: str = "hidden @ w_down", gate: str = "x @ w_gate", up: str = "x @ w_up"
) -> str:
    """Return the cell of exercise 03.3 with its steps as given."""
    return f"""\
{_SIGNATURE}    gate, up = {gate}, {up}  # (batch, position, d_ff)
    hidden = {hidden}
    return {result}
"""


WRITE_SWIGLU = Exercise(
    id="03.3",
    kind="write",
    title="SwiGLU",
    section="The feed-forward network",
    answer="swiglu",
    results=("output",),
    inputs=_feed_forward_inputs,
    expected=_unit_by_unit,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_gated(),
    why="Both branches are linear maps of the same input to d_ff numbers. One goes through SiLU, g · sigmoid(g), and says how "
    "far each hidden unit is open; the other says what passes through. Their product, number by number, is what the last "
    "matrix reads. Three matrices stand in the place of two, so d_ff is usually made a third smaller (arXiv 2002.05202).",
    hints=(
        "Three matrices, two branches: which of them read x, and which of them reads what the branches make together?",
        "Both branches are (batch, position, d_ff). The activation is applied to one of them; then they meet, number by "
        "number.",
        "The branch through the activation is the one that its matrix is named for: the gate. In PyTorch, SiLU is `F.silu`.",
    ),
    mistakes=(
        Mistake(
            _gated("F.sigmoid(gate) * up"),
            "The gate is a sigmoid: that is GLU (arXiv 1612.08083). The Swi in SwiGLU is SiLU, also called Swish: the gate "
            "times its sigmoid.",
        ),
        Mistake(
            _gated("F.gelu(gate) * up"),
            "The gate is a GELU: that is GEGLU, which Gemma uses. SwiGLU takes SiLU.",
        ),
        Mistake(
            _gated("F.gelu(gate, approximate='tanh') * up"),
            "The gate is the approximate GELU: that is Gemma's GEGLU. SwiGLU takes SiLU.",
        ),
        Mistake(
            _gated("F.relu(gate) * up"),
            "The gate is a ReLU: that is ReGLU. SwiGLU takes SiLU, which is smooth and a little below 0 on the left.",
        ),
        Mistake(
            _gated("torch.tanh(gate) * up"),
            "The gate is a tanh. SwiGLU takes SiLU, which has no ceiling.",
        ),
        Mistake(
            _gated("gate.softmax(dim=-1) * up"),
            "The gate is a softmax, so the hidden units compete for a sum of 1. Each gate opens by itself, through SiLU.",
        ),
        Mistake(
            _gated("gate * up"),
            "The activation is missing: that is a bilinear layer. The gate goes through SiLU first.",
        ),
        Mistake(
            _gated("gate * F.silu(up)"),
            "The branches have changed roles: it is x @ w_gate that goes through SiLU, and x @ w_up that passes as it is.",
        ),
        Mistake(
            _gated("F.silu(gate) * F.silu(up)"),
            "Both branches go through SiLU. Only the gate does; the other branch stays linear.",
        ),
        Mistake(
            _gated("F.silu(gate * up)"),
            "SiLU comes after the product. It is applied to the gate alone, before the two meet.",
        ),
        Mistake(
            _gated("F.silu(gate) + up"),
            "The branches are added. A gate multiplies: where it is closed, nothing may pass.",
        ),
        Mistake(
            _gated("F.silu(up)"),
            "There is no gate: that is the ordinary feed-forward network, and w_gate is not used.",
        ),
        Mistake(
            _gated("F.silu(gate)"),
            "Nothing passes through the gate: x @ w_up is not used.",
        ),
        Mistake(
            _gated(result="hidden"),
            "That is the hidden layer, d_ff wide. It still has to be written back into the stream, through w_down.",
        ),
        Mistake(
            _gated(result="F.silu(hidden @ w_down)"),
            "The hidden layer is right, but there is an activation behind w_down. What is written into the stream is linear.",
        ),
        Mistake(
            _gated(result="x + hidden @ w_down"),
            "The network is right, and the residual connection is added too. That is the block's work: here, return only "
            "what is to be written.",
        ),
        Mistake(
            _gated(result="(F.silu(gate) @ w_down) * (up @ w_down)"),
            "The branches meet after w_down, in the d_model numbers of the stream. They meet before it, in the d_ff hidden "
            "units.",
        ),
        Mistake(
            _gated(gate="x @ w_gate.mT", up="x @ w_up.mT"),
            "The weights are transposed. `nn.Linear` stores (out, in); here they are (in, out), ready for x on their left.",
        ),
    ),
)
