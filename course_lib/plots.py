"""The course's visual language and its matplotlib figures.

Colours live here and nowhere else: matplotlib reads `PALETTE`, and the widgets' style sheets get the same values as
CSS variables from `css_variables`. Colours are from the colour-blind-safe set of Okabe and Ito (https://jfly.uni-koeln.de/color/),
lightened for the dark theme; wherever colour tells two things apart, a letter, dash or shape does so too.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

__all__ = ["PALETTE", "attention_ramp", "chip", "css_variables", "show_matrix", "style"]

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


def style() -> None:
    """Set matplotlib's defaults for the course: legible from the last row (11 pt and more), on a light card in any theme."""
    plt.rcParams.update(
        {
            "figure.figsize": (8.0, 3.4),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 12,
            "axes.titlesize": 13,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "axes.prop_cycle": matplotlib.cycler(color=list(PALETTE["light"].values())),
        }
    )


def show_matrix(
    weights,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    title: str = "",
    numbers: bool | None = None,
    ax: plt.Axes | None = None,
) -> plt.Axes:
    """Draw attention weights (query, key) in 0…1: rows are queries, columns are keys, position 0 top left.

    `queries` and `keys` are the tokens' texts (`keys` defaults to `queries`). `numbers` writes the weight into each cell;
    by default it does so up to 8 keys. Returns the axes.
    """
    weights = np.asarray(weights, dtype=float)
    keys = queries if keys is None else keys
    if weights.shape != (len(queries), len(keys)):
        raise ValueError(
            f"weights have shape {weights.shape}, but there are {len(queries)} queries and {len(keys)} keys"
        )
    if ax is None:
        side = 1.6 + 0.42 * max(len(queries), 4)
        _, ax = plt.subplots(figsize=(side + 1.2, side))
    ramp = matplotlib.colors.ListedColormap(attention_ramp("light") / 255)
    image = ax.imshow(weights, cmap=ramp, vmin=0, vmax=1)
    ax.set_xticks(range(len(keys)), [chip(key) for key in keys], rotation=90 if len(keys) > 5 else 0)
    ax.set_yticks(range(len(queries)), [chip(query) for query in queries])
    ax.set_xlabel("key", color=PALETTE["light"]["key"])
    ax.set_ylabel("query", color=PALETTE["light"]["query"])
    ax.set_title(title)
    ax.spines[:].set_visible(False)
    if numbers if numbers is not None else len(keys) <= 8:
        for (row, column), weight in np.ndenumerate(weights):
            ax.text(column, row, f"{weight:.2g}", ha="center", va="center", color="white" if weight > 0.45 else "black")
    ax.figure.colorbar(image, ax=ax, label="attention weight", ticks=[0, 0.5, 1], shrink=0.8)
    return ax
