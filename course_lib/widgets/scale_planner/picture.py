"""The planner without a kernel: one still picture of memory by ZeRO stage, and the figures of the plan."""

from io import BytesIO

from matplotlib.figure import Figure

from course_lib.plots import PALETTE
from course_lib.pretraining.scaling import Run
from course_lib.widgets.shared.numbers import short

__all__ = ["planner_picture"]

_ROLES = {"weights": "query", "gradients": "key", "optimizer": "value", "activations": "residual"}
_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
_FIGURES = {"flops": "operations", "gpu_hours": "GPU hours", "days": "days", "dollars": "dollars"}


def planner_picture(run: Run, result: dict) -> bytes:
    """Draw what `ScalePlanner` has computed for `run`; return a PNG."""
    figure = Figure(figsize=(11, 4.6), dpi=100, facecolor="white")
    ax, side = figure.subplots(1, 2, width_ratios=[1.7, 1])
    longest = max(result["room"], *(sum(memory.values()) for memory in result["stages"])) / 1e9
    for stage, memory in enumerate(result["stages"]):
        left = 0.0
        for part, n_bytes in memory.items():
            width = n_bytes / 1e9
            ax.barh(stage, width, left=left, height=0.62, color=PALETTE["light"][_ROLES[part]], edgecolor="white")
            if width > 0.05 * longest:
                ax.text(left + width / 2, stage, part[0].upper(), color="white", fontsize=12, ha="center", va="center")
            left += width
        weight = "bold" if stage == run.stage else "normal"
        ax.text(left + 0.01 * longest, stage, short(left), fontsize=12, va="center", weight=weight, bbox=_LABEL)
    room = result["room"] / 1e9
    ax.axvline(room, color="black", linestyle="--")
    ax.text(room, -0.62, f"{run.gpu}: {room:g} GB", fontsize=12, ha="center")
    ax.set(xlim=(0, 1.12 * longest), ylim=(3.5, -0.5))
    ax.set_yticks(range(4), [f"ZeRO {stage}" for stage in range(4)], fontsize=12)
    ax.get_yticklabels()[run.stage].set_weight("bold")
    ax.set_xlabel("GB on each GPU", fontsize=12)
    ax.tick_params(labelsize=12, left=False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    for part, role in _ROLES.items():
        ax.bar(0, 0, color=PALETTE["light"][role], label=f"{part[0].upper()} {part}")
    figure.legend(loc="lower left", ncols=4, fontsize=12, frameon=False, columnspacing=1.2)
    side.axis("off")
    side.text(
        0,
        0.95,
        f"{short(run.parameters / 1e9)}B parameters, {short(run.tokens / 1e12)}T tokens",
        fontsize=13,
        weight="bold",
    )
    side.text(0, 0.85, f"{run.n_gpus:,} {run.gpu}, {run.precision}, MFU {run.mfu:.0%}", fontsize=12)
    for row, (name, label) in enumerate(_FIGURES.items()):
        published = (result["published"] or {}).get(name)
        side.text(0, 0.68 - 0.17 * row, label, fontsize=12)
        side.text(0.36, 0.68 - 0.17 * row, _in_words(result["figures"][name]), fontsize=13, weight="bold")
        if published:
            side.text(0.36, 0.61 - 0.17 * row, f"published: {_in_words(published)}", fontsize=12)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.86, bottom=0.24, wspace=0.12)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _in_words(number: float) -> str:
    if number >= 1e12:
        digits, exponent = f"{number:.2e}".split("e+")
        return rf"{digits} $\times$ $10^{{{exponent}}}$"
    return f"{short(number / 1e6)} million" if number >= 1e6 else short(number)
