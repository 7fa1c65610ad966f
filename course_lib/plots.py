"""The course's visual language and its matplotlib figures.

Colours live here and nowhere else: matplotlib reads `PALETTE`, and the widgets' style sheets get the same values as
CSS variables from `css_variables`. Colours are from the colour-blind-safe set of Okabe and Ito (https://jfly.uni-koeln.de/color/),
lightened for the dark theme; wherever colour tells two things apart, a letter, dash or shape does so too.
"""

from collections.abc import Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt

__all__ = [
    "PALETTE",
    "attention_ramp",
    "chip",
    "css_variables",
    "show_curves",
    "show_heads",
    "show_matrix",
    "show_tokens",
]

PALETTE = {
    "light": {
        "query": "#0072B2",
        "key": "#C65D00",
        "value": "#007F5C",
        "residual": "#6B6B6B",
        "learner": "#7A3EB1",
    },
    "dark": {
        "query": "#56B4E9",
        "key": "#F2A33A",
        "value": "#35CFA0",
        "residual": "#A8A8A8",
        "learner": "#C79BF2",
    },
}
"""Theme -> role -> colour: query blue, key orange, value green, residual stream grey, the learner's own result violet."""

_RAMP = "magma"  # perceptually uniform, and its order survives every common colour-vision deficiency and a grey printer


def attention_ramp(theme: str = "light") -> np.ndarray:
    """Return the attention colours for weights 0 to 1 as uint8 (256, 3): light to dark on light, reversed on dark."""
    if theme not in PALETTE:
        raise ValueError(f"theme must be one of {sorted(PALETTE)}, not {theme!r}")
    colours = matplotlib.colormaps[_RAMP](np.arange(256), bytes=True)[:, :3]
    return colours[::-1].copy() if theme == "light" else colours.copy()


def css_variables() -> str:
    """Return a style sheet that defines `--course-query` … `--course-learner` for JupyterLab's light and dark themes."""

    def block(selector: str, theme: str) -> str:
        lines = "".join(f"  --course-{role}: {colour};\n" for role, colour in PALETTE[theme].items())
        return f"{selector} {{\n{lines}}}\n"

    return block(":root", "light") + block('body[data-jp-theme-light="false"]', "dark")


def chip(piece: str) -> str:
    """Return a token's text as its chip shows it: spaces as `·`, newlines as `⏎`, tabs as `⇥`."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


_STYLE = {  # legible from the last row: 11 pt and more; on a light card, which a dark theme leaves legible too
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
_SERIES = ("#1A1A1A", "#AA4466", "#7D7D00", "#6B6B6B")  # for curves that are none of the palette's roles
_DASHES = ("-", "--", ":", "-.")  # the second cue beside colour
_MARKERS = ("o", "s", "^", "D")


def show_tokens(pieces: Sequence[str], ids: Sequence[int]) -> HTML:
    """Return a sentence as token chips, spaces visible; hovering over one gives its id and position."""
    chips = "".join(
        f'<span title="id {i}, position {position}" style="display: inline-block; margin: 2px; padding: 1px 6px; '
        f"border: 1px solid {PALETTE['light']['residual']}; border-radius: 4px; font-family: monospace; "
        f'font-size: 15px">{escape(chip(piece))}</span>'
        for position, (piece, i) in enumerate(zip(pieces, ids, strict=True))
    )
    return HTML(f"<div>{chips}</div>")


@matplotlib.rc_context(_STYLE)
def show_matrix(weights, queries: Sequence[str], keys: Sequence[str] | None = None, *, title: str = "") -> None:
    """Draw attention weights (query, key) in 0…1: rows are queries, columns are keys, position 0 top left.

    `queries` and `keys` are the tokens' texts; `keys` defaults to `queries`. Up to 8 keys the weights stand in the cells.
    """
    weights = np.asarray(weights, dtype=float)
    keys = queries if keys is None else keys
    if weights.shape != (len(queries), len(keys)):
        raise ValueError(
            f"weights have shape {weights.shape}, but there are {len(queries)} queries and {len(keys)} keys"
        )
    side = 2.2 + 0.42 * max(len(queries), 4)
    _, ax = plt.subplots(figsize=(side + 1.2, side))
    image = ax.imshow(weights, cmap=_light_ramp(), vmin=0, vmax=1)
    ax.set_xticks(range(len(keys)), [chip(key) for key in keys], rotation=90 if len(keys) > 5 else 30, parse_math=False)
    ax.set_yticks(range(len(queries)), [chip(query) for query in queries], parse_math=False)
    ax.set_xlabel("key", color=PALETTE["light"]["key"], weight="bold")
    ax.set_ylabel("query", color=PALETTE["light"]["query"], weight="bold")
    ax.set_title(title)
    ax.spines[:].set_visible(False)
    if len(keys) <= 8:
        for (row, column), weight in np.ndenumerate(weights):
            ax.text(column, row, f"{weight:.2g}", ha="center", va="center", color="white" if weight > 0.45 else "black")
    ax.figure.colorbar(image, ax=ax, label="attention weight", ticks=[0, 0.5, 1], shrink=0.8)
    plt.show()


@matplotlib.rc_context(_STYLE)
def show_heads(scores, *, title: str) -> None:
    """Draw one number in 0…1 for every head (layer, head): layer 0 at the bottom of the stack, heads from 0 at the left."""
    scores = np.asarray(scores, dtype=float)
    n_layers, n_heads = scores.shape
    _, ax = plt.subplots(figsize=(1.8 + 0.3 * n_heads, 1.2 + 0.16 * n_layers))
    image = ax.imshow(scores, cmap=_light_ramp(), vmin=0, vmax=1, origin="lower", aspect="auto")
    ax.set_xticks(range(n_heads))
    ax.set_yticks(range(0, n_layers, 5 if n_layers > 10 else 1))
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_title(title)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, ticks=[0, 0.5, 1], shrink=0.8)
    plt.show()


@matplotlib.rc_context(_STYLE)
def show_curves(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    level: tuple[float, str] | None = None,
) -> None:
    """Draw named curves over `x`; `level` is a height to mark and its name. Few points get markers, and ticks at each."""
    _, ax = plt.subplots(figsize=(7.5, 3.4))
    few = len(x) <= 12
    if len(curves) > len(_SERIES):
        raise ValueError(f"{len(curves)} curves in one figure cannot be told apart; draw at most {len(_SERIES)}")
    for (name, y), colour, dash, marker in zip(curves.items(), _SERIES, _DASHES, _MARKERS, strict=False):
        ax.plot(x, y, color=colour, linestyle=dash, marker=marker if few else None, label=name)
    if level is not None:
        ax.axhline(level[0], color=PALETTE["light"]["residual"], linewidth=1)
        ax.annotate(level[1], (1, level[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    if log_x:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{tick:,}" for tick in x])
    if log_y:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend()
    plt.show()


def _light_ramp() -> matplotlib.colors.Colormap:
    return matplotlib.colors.ListedColormap(attention_ramp("light") / 255)
