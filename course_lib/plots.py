"""The course's visual language and its matplotlib figures.

Colours live here and nowhere else: matplotlib reads `PALETTE`, and the widgets' style sheets get the same values as
CSS variables from `css_variables`. Colours are from the colour-blind-safe set of Okabe and Ito (https://jfly.uni-koeln.de/color/),
lightened for the dark theme; wherever colour tells two things apart, a letter, dash or shape does so too.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.font_manager import FontProperties, findfont, get_font

__all__ = [
    "PALETTE",
    "attention_ramp",
    "chip",
    "css_variables",
    "diverging_ramp",
    "drawable",
    "show_clocks",
    "show_curves",
    "show_head_kinds",
    "show_heads",
    "show_matrix",
    "show_multi_head",
    "show_owners",
    "show_table",
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


# blue below zero, red above; the sign survives every common colour deficiency
_SIGNED = {"light": "RdBu_r", "dark": "berlin"}


def diverging_ramp(theme: str = "light") -> np.ndarray:
    """Return the colours of signed numbers from -1 to 1 as uint8 (255, 3): 0, in the middle, has that of the background."""
    if theme not in PALETTE:
        raise ValueError(f"theme must be one of {sorted(PALETTE)}, not {theme!r}")
    return matplotlib.colormaps[_SIGNED[theme]].resampled(255)(np.arange(255), bytes=True)[:, :3].copy()


def css_variables() -> str:
    """Return a style sheet that defines `--course-query` … `--course-learner` for JupyterLab's light and dark themes."""

    def block(selector: str, theme: str) -> str:
        lines = "".join(f"  --course-{role}: {colour};\n" for role, colour in PALETTE[theme].items())
        return f"{selector} {{\n{lines}}}\n"

    return block(":root", "light") + block('body[data-jp-theme-light="false"]', "dark")


def chip(piece: str) -> str:
    """Return a token's text as its chip shows it: spaces as `·`, newlines as `⏎`, tabs as `⇥`."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


_FACES = [  # those that pictures write tokens in
    FontProperties(family=family, weight=weight)
    for family in ("monospace", "sans-serif")
    for weight in ("normal", "bold")
]


def drawable(text: str, longest: int = 28) -> str:
    """Return `text` as a picture shows it: a character that matplotlib's fonts lack as its code point, `U+6F22`.

    What is then longer than `longest` characters is cut, between two characters of `text`, and ends with `…`.
    """
    fonts = [get_font(findfont(face)) for face in _FACES]
    shown = [
        character if all(font.get_char_index(ord(character)) for font in fonts) else f"U+{ord(character):04X}"
        for character in text[: longest + 1]
    ]
    if sum(map(len, shown)) <= longest:
        return "".join(shown)
    while sum(map(len, shown)) >= longest:
        shown.pop()
    return "".join(shown) + "…"


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


def show_table(columns: Mapping[str, Sequence[object]], rows: Sequence[str]) -> HTML:
    """Return a table with a heading for each of `columns`; what differs from what is usual in a row is set in bold."""

    def cell(value: object, is_odd: bool) -> str:
        text = "–" if value is None or value is False else "yes" if value is True else escape(str(value))
        return f"<td style='text-align: center'>{f'<b>{text}</b>' if is_odd else text}</td>"

    head = "".join(f"<th style='text-align: center'>{escape(name)}</th>" for name in columns)
    body = []
    for row, *values in zip(rows, *columns.values(), strict=True):
        usual = max(values, key=values.count)
        odd = [values.count(usual) > 1 and value != usual for value in values]
        body.append(f"<tr><th>{escape(row)}</th>{''.join(map(cell, values, odd))}</tr>")
    return HTML(f"<table style='font-size: 14px'><tr><th></th>{head}</tr>{''.join(body)}</table>")


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
    ax.set_xticks(
        range(len(keys)), [drawable(chip(key)) for key in keys], rotation=90 if len(keys) > 5 else 30, parse_math=False
    )
    ax.set_yticks(range(len(queries)), [drawable(chip(query)) for query in queries], parse_math=False)
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
    edge: tuple[float, str] | None = None,
    lowest: float = 0.0,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    file: Path | None = None,
) -> None:
    """Draw named curves over `x`, from the height `lowest` up; `level` is a height and `edge` an x to mark, with their names.

    Few points get markers, and ticks at each. `intervals` gives each point of a curve an interval (low, high) to be drawn.
    With `file` the picture is written there, as PNG, and not shown.
    """
    figure, ax = plt.subplots(figsize=(7.5, 3.4))
    few = len(x) <= 12
    if unknown := set(intervals or ()) - set(curves):
        raise ValueError(f"there are intervals for {', '.join(sorted(unknown))}, but no such curve")
    if len(curves) > len(_SERIES):
        raise ValueError(f"{len(curves)} curves in one figure cannot be told apart; draw at most {len(_SERIES)}")
    for (name, y), colour, dash, marker in zip(curves.items(), _SERIES, _DASHES, _MARKERS, strict=False):
        ax.plot(x, y, color=colour, linestyle=dash, marker=marker if few else None, label=name)
        if intervals and name in intervals:
            lows, highs = zip(*intervals[name], strict=True)
            ax.vlines(x, lows, highs, color=colour, linewidth=1.2)
    if level is not None:
        ax.axhline(level[0], color=PALETTE["light"]["residual"], linewidth=1)
        # clear of curves on the level
        name = {"xytext": (0, 5), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        ax.annotate(level[1], (1, level[0]), xycoords=("axes fraction", "data"), **name)
    if edge is not None:
        ax.axvline(edge[0], color=PALETTE["light"]["residual"], linewidth=1)
        ax.annotate(f" {edge[1]}", (edge[0], 0), xycoords=("data", "axes fraction"), ha="left", va="bottom")
    if log_x:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{tick:,}" for tick in x])
    if log_y:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=lowest)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend()
    if file is None:
        plt.show()
        return
    figure.savefig(file, format="png")
    plt.close(figure)


@matplotlib.rc_context(_STYLE)
def show_multi_head(n_positions: int = 5, d_model: int = 12, n_heads: int = 3) -> None:
    """Draw the shapes of causal multi-head attention: split into heads, attend in each, set side by side, project."""
    d_head, space = d_model // n_heads, 2
    tall = n_heads * (n_positions + space) - space  # the heads one below the other, in cells
    _, ax = plt.subplots(figsize=(9.6, 3.2))
    x = 0

    def stage(title: str, width: int, role: str, arrow: str = "") -> None:
        """Draw one grid a head, below each other where they are narrower than the model, and the arrow that leads there."""
        nonlocal x
        if arrow:
            ax.annotate("", (x + 5.2, tall / 2), (x + 0.8, tall / 2), arrowprops={"arrowstyle": "->", "lw": 1.5})
            ax.text(x + 3, tall / 2 - 0.7, arrow, ha="center", va="bottom", fontsize=11)
            x += 6
        stacked = width < d_model
        for head in range(n_heads):
            left, top = (x, head * (n_positions + space)) if stacked else (x + head * d_head, (tall - n_positions) / 2)
            tint = 0 if role == "residual" else head  # W_O has mixed the heads
            colours = _head_tints(role, n_heads)[tint] if role else _light_ramp()(_even_causal(n_positions))
            _grid(ax, left, top, np.broadcast_to(colours, (n_positions, width if stacked else d_head, 4)))
            if role not in ("", "residual"):
                middle = (left + (width if stacked else d_head) / 2, top + n_positions / 2)
                ax.text(*middle, str(head), ha="center", va="center", weight="bold")
        shape = f"{n_heads} × {n_positions} × {width}" if stacked else f"{n_positions} × {width}"
        ax.text(x + width / 2, -0.8, title, ha="center", va="bottom")
        ax.text(x + width / 2, tall + 0.8, shape, ha="center", va="top", family="monospace")
        x += width

    stage("$x\\,W_Q$", d_model, "query")
    stage("queries", d_head, "query", "split")
    stage("weights", n_positions, "", "· keys")
    stage("mixtures", d_head, "value", "· values")
    stage("side by side", d_model, "value", "join")
    stage("output", d_model, "residual", "$\\cdot\\,W_O$")
    ax.set(xlim=(-0.2, x + 0.2), ylim=(tall + 3, -3), aspect="equal")
    ax.axis("off")
    plt.show()


@matplotlib.rc_context(_STYLE)
def show_owners(panels: Mapping[str, np.ndarray]) -> None:
    """Draw which head each number of x W_Q goes to: `panels` maps a title to head indices (position, number)."""
    _, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 2.9))
    for ax, (title, owners) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        owners = np.asarray(owners)
        _grid(ax, -0.5, -0.5, np.asarray(_head_tints("query", owners.max() + 1))[owners])
        for (position, number), head in np.ndenumerate(owners):
            ax.text(number, position, str(head), ha="center", va="center", fontsize=11)
        ax.set(xticks=[], yticks=range(len(owners)), aspect="equal", title=title)
        ax.set(xlim=(-0.6, owners.shape[1] - 0.4), ylim=(len(owners) - 0.4, -0.6), ylabel="position")
        ax.set_xlabel("numbers of $x\\,W_Q$, each marked with its head")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    plt.show()


@matplotlib.rc_context(_STYLE)
def show_head_kinds(kinds: Sequence[Sequence[str]], names: Mapping[str, str]) -> None:
    """Draw a letter for every head (layer, head), layer 0 at the bottom; `names` maps each letter to what it stands for."""
    kinds = np.asarray(kinds)
    n_layers, n_heads = kinds.shape
    colours = dict(zip(names, matplotlib.colormaps["Pastel1"].colors, strict=False))
    _, ax = plt.subplots(figsize=(7.2, 0.8 + 0.205 * n_layers))
    _grid(ax, -0.5, -0.5, np.array([[colours[kind] for kind in row] for row in kinds]))
    for (layer, head), kind in np.ndenumerate(kinds):
        ax.text(head, layer, kind, ha="center", va="center", fontsize=11)
    for row, (letter, name) in enumerate(names.items()):
        at = n_layers - 2 - 2 * row
        _grid(ax, n_heads + 0.7, at - 0.5, np.array([[colours[letter]]]))
        ax.text(n_heads + 1.2, at, letter, ha="center", va="center", fontsize=11)
        ax.text(n_heads + 2.2, at, f"{name}: {(kinds == letter).sum()}", va="center")
    ax.set(xticks=range(n_heads), yticks=range(0, n_layers, 5), ylabel="layer", xlim=(-0.6, 2.1 * n_heads))
    ax.set_ylim(-0.6, n_layers - 0.4)
    ax.set_xlabel("head", x=1 / 2.1 / 2)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    plt.show()


@matplotlib.rc_context(_STYLE)
def show_kept() -> None:
    """Draw four ways in which four query heads come to keys and values; filled boxes are what a cache keeps of a token."""
    ways = {"multi-head": 4, "grouped-query": 2, "multi-query": 1, "latent": 4}  # key/value heads
    _, axes = plt.subplots(1, len(ways), figsize=(9.6, 2.9), sharey=True)
    palette = PALETTE["light"]
    line = {"color": palette["residual"], "linewidth": 1, "zorder": 0}

    def box(ax: plt.Axes, x: float, y: float, width: float, role: str, name: str, kept: bool = True) -> None:
        face, dash = (palette[role], "-") if kept else ("white", (0, (3, 2)))
        corner = (x - width / 2, y - 0.3)
        ax.add_patch(plt.Rectangle(corner, width, 0.6, facecolor=face, edgecolor=palette[role], linestyle=dash))
        ax.text(x, y, name, ha="center", va="center", color="white" if kept else palette[role], fontsize=11)

    for ax, (way, n_kv_heads) in zip(axes, ways.items(), strict=True):
        latent = way == "latent"
        at = [(head + 0.5) * 4 / n_kv_heads for head in range(n_kv_heads)]
        for head in range(4):
            ax.plot([head + 0.5, at[head * n_kv_heads // 4]], [2, 1], **line)
            box(ax, head + 0.5, 2, 0.7, "query", "q", kept=False)
        for x in at:
            box(ax, x - 0.2, 1, 0.4, "key", "k", not latent)
            box(ax, x + 0.2, 1, 0.4, "value", "v", not latent)
        if latent:
            for x in at:
                ax.plot([x, 2], [1, 0], **line)
            box(ax, 2, 0, 1.6, "residual", "c")
        kept = "1 latent" if latent else f"{n_kv_heads} keys, {n_kv_heads} values"
        ax.set(xlim=(-0.1, 4.1), ylim=(-0.9, 2.5), title=way)
        ax.text(2, -0.85, "keeps " + kept.replace("1 keys, 1 values", "1 key, 1 value"), ha="center", va="bottom")
        ax.axis("off")
    plt.show()


@matplotlib.rc_context(_STYLE)
def show_clocks(angles) -> None:
    """Draw the angle of each pair at each position as a clock hand: `angles` (pair, position) in radians."""
    angles = np.asarray(angles, dtype=float)
    n_pairs, n_positions = angles.shape
    _, ax = plt.subplots(figsize=(1.3 + 0.62 * n_positions, 0.8 + 0.62 * n_pairs))
    for (pair, position), angle in np.ndenumerate(angles):
        ax.add_patch(plt.Circle((position, pair), 0.42, fill=False, color=PALETTE["light"]["residual"]))
        tip = (position + 0.4 * np.cos(angle), pair - 0.4 * np.sin(angle))  # the axis of pairs points down
        ax.annotate("", tip, (position, pair), arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "lw": 1.8})
    ax.set(xlim=(-0.6, n_positions - 0.4), ylim=(n_pairs - 0.4, -0.6), aspect="equal")
    ax.set(xticks=range(n_positions), yticks=range(n_pairs), xlabel="position", ylabel="pair")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    plt.show()


def _light_ramp() -> matplotlib.colors.Colormap:
    return matplotlib.colors.ListedColormap(attention_ramp("light") / 255)


def _grid(ax: plt.Axes, left: float, top: float, colours: np.ndarray) -> None:
    """Draw a grid of unit cells (row, column), filled with `colours` (row, column, RGB or RGBA)."""
    for row, column in np.ndindex(colours.shape[:2]):
        corner = (left + column, top + row)
        ax.add_patch(plt.Rectangle(corner, 1, 1, facecolor=colours[row, column], edgecolor="white", linewidth=0.8))


def _head_tints(role: str, n_heads: int) -> list[tuple]:
    """Return one tint of the role's colour for each head, light to dark, light enough for black text."""
    return [matplotlib.colors.to_rgba(PALETTE["light"][role], alpha) for alpha in np.linspace(0.2, 0.6, n_heads)]


def _even_causal(n: int) -> np.ndarray:
    """Return causal weights (query, key) that give each position and its past the same weight."""
    return np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
