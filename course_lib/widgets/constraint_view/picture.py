"""ConstraintView without a kernel: one still picture, for GitHub, nbviewer and paper."""

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from course_lib.plots import PALETTE, drawable

__all__ = ["constraint_picture"]

_VIOLET = PALETTE["light"]["learner"]
_LONGEST_CHIP, _LONGEST_LABEL = 14, 12  # characters


def constraint_picture(drawing: dict, result: dict) -> bytes:
    """Draw the automaton with the state that the text is in, the next token's odds, and what the mask removed at each step.

    Where the text has ended, its tokens stand in place of the odds. Return a PNG.
    """
    figure = Figure(figsize=(11, 7), dpi=100, facecolor="white")
    boxes = ((0.02, 0.55, 0.96, 0.38), (0.17, 0.09, 0.3, 0.35), (0.6, 0.09, 0.37, 0.35))
    automaton, odds, removed = (figure.add_axes(box) for box in boxes)
    _draw_automaton(automaton, drawing, result["state"])
    _draw_odds(odds, result["next"] or result["steps"])
    steps = result["steps"]
    removed.bar(
        range(1, len(steps) + 1), [step["removed"] for step in steps], color="white", edgecolor="black", hatch="//"
    )
    removed.set(ylim=(0, 1), xlim=(0.4, max(len(steps), 4) + 0.6))
    removed.set_xlabel("token", fontsize=12)
    removed.set_ylabel("probability removed", fontsize=12)
    removed.xaxis.get_major_locator().set_params(integer=True)
    removed.tick_params(labelsize=11)
    removed.spines[["top", "right"]].set_visible(False)
    shown, n_states = len(drawing["states"]), drawing["n_states"]
    part = "" if drawing["is_whole"] else f": {shown} of {n_states:,} states"
    titles = (
        (0.02, 0.95, f"Automaton{part}"),
        (0.02, 0.47, "Next token" if result["next"] else "Written"),
        (0.53, 0.47, "What the mask removed"),
    )
    for x, y, title in titles:
        figure.text(x, y, title, fontsize=14, weight="bold")
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_automaton(ax: Axes, drawing: dict, current: int) -> None:
    places = {state["id"]: (state["column"], -state["row"]) for state in drawing["states"]}
    columns, rows = zip(*places.values(), strict=True)
    ax.set(xlim=(min(columns) - 1, max(columns) + 1), ylim=(min(rows) - 1, max(rows) + 1))
    ax.axis("off")
    has_words = len(places) <= 24
    for edge in drawing["edges"]:
        (x0, y0), (x1, y1) = places[edge["source"]], places[edge["target"]]
        if edge["source"] == edge["target"]:
            y1, bend = y1 + 0.01, 0.0
        else:
            bend = 0.0 if x1 == x0 + 1 else 0.35
        look = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 11, "shrinkB": 11, "color": "#666666"}
        ax.add_patch(FancyArrowPatch((x0, y0), (x1, y1), connectionstyle=f"arc3,rad={bend}", **look))
        if has_words and edge["source"] != edge["target"] and x1 - x0 in (0, 1):  # those that lead back cross others
            label = drawable(edge["label"], _LONGEST_LABEL)
            look = {"ha": "center", "va": "bottom", "family": "monospace", "fontsize": 11, "parse_math": False}
            ax.text((x0 + x1) / 2 + (0.2 if x1 == x0 else 0), (y0 + y1) / 2 + 0.06, label, **look)
    for state in drawing["states"]:
        x, y = places[state["id"]]
        is_here = state["id"] == current
        if state["id"] == 0:
            ax.annotate("", (x - 0.2, y), (x - 0.8, y), arrowprops={"arrowstyle": "-|>", "color": "black"})
        ax.plot(x, y, "o", markersize=21, color=_VIOLET if is_here else "white", markeredgecolor="black")
        if state["accepting"]:
            ax.plot(x, y, "o", markersize=16, fillstyle="none", color="white" if is_here else "black")
        ax.text(x, y, state["id"], ha="center", va="center", fontsize=11, color="white" if is_here else "black")


def _draw_odds(ax: Axes, tokens: list[dict]) -> None:
    rows = range(min(len(tokens), 10))
    ax.barh(rows, [tokens[row]["now"] for row in rows], height=0.62, color=_VIOLET, label="after the mask")
    ax.barh(rows, [tokens[row]["before"] for row in rows], height=0.76, fill=False, linestyle="--", label="before")
    labels = [("✗ " if tokens[row]["out"] else "") + drawable(tokens[row]["chip"], _LONGEST_CHIP) for row in rows]
    ax.set_yticks(rows, labels, family="monospace", parse_math=False)
    ax.set_xlim(0, 1)
    ax.tick_params(length=0, labelsize=11)
    ax.set_xlabel("probability", fontsize=12)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", bbox_to_anchor=(1.03, 0.98), ncols=2, frameon=False, fontsize=11)
