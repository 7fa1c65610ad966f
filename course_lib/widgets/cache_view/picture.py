"""The cache view without a kernel: one still picture of every step, with the counts that hold on any machine."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from course_lib.plots import PALETTE
from course_lib.widgets.shared.numbers import short

__all__ = ["cache_picture"]

_COLOURS = PALETTE["light"]
_ROLES = ("query", "key", "value")
_TITLES = {"uncached": "Without a cache", "cached": "With a key/value cache"}


def cache_picture(schedules: dict[str, Sequence[dict]]) -> bytes:
    """Draw positions × steps for both sides, filled where computed and hollow where read; return a PNG.

    `schedules` maps "uncached" and "cached" to each step's `n_new`, `n_past`, `flops` and `cache_read`.
    """
    figure = Figure(figsize=(11, 5.2), dpi=100, facecolor="white")
    for ax, (side, costs) in zip(figure.subplots(1, 2), schedules.items(), strict=True):
        _draw_steps(ax, costs)
        flops, read = (sum(cost[name] for cost in costs) for name in ("flops", "cache_read"))
        ax.set_title(_TITLES[side], fontsize=14, weight="bold", loc="left", pad=30)
        total = f"{len(costs)} tokens: {short(flops / 1e9, 2)} GFLOP, {short(read / 1e6, 2)} MB read from the cache"
        ax.text(0, 1.02, total, transform=ax.transAxes, fontsize=12, va="bottom")
    computed = [Patch(color=_COLOURS[role], label=f"{role} computed") for role in _ROLES]
    read = [
        Patch(facecolor="none", edgecolor=_COLOURS[role], linewidth=1.5, label=f"{role} read") for role in _ROLES[1:]
    ]
    figure.legend(handles=[*computed, *read], loc="lower center", ncols=5, fontsize=12, frameon=False)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.84, bottom=0.2, wspace=0.12)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_steps(ax: Axes, costs: Sequence[dict]) -> None:
    for place, role in enumerate(_ROLES):
        boxes = {True: [], False: []}
        for step, cost in enumerate(costs):
            for position in range(cost["n_past"] + cost["n_new"]):
                is_new = position >= cost["n_past"]
                boxes[is_new].append(Rectangle((position + 0.12 + 0.27 * place, step + 0.14), 0.2, 0.72))
        colour = _COLOURS[role]
        ax.add_collection(PatchCollection(boxes[True], facecolor=colour, edgecolor=colour, linewidth=0.9))
        if role != "query":  # a past query is neither kept nor needed
            ax.add_collection(PatchCollection(boxes[False], facecolor="none", edgecolor=colour, linewidth=0.9))
    n_positions = costs[-1]["n_past"] + costs[-1]["n_new"]
    ax.set(xlim=(0, n_positions), ylim=(len(costs), 0))
    ax.set_xticks([position + 0.5 for position in range(0, n_positions, 5)], range(0, n_positions, 5), fontsize=11)
    ax.set_yticks([step - 0.5 for step in range(5, len(costs) + 1, 5)], range(5, len(costs) + 1, 5), fontsize=11)
    ax.set_xlabel("position", fontsize=12)
    ax.set_ylabel("step", fontsize=12)
    ax.tick_params(length=0)
    ax.spines[:].set_color("#CCCCCC")
