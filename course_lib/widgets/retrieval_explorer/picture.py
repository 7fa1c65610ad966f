"""The retrieval explorer without a kernel: one still picture of the map, the three rankings, and what is answered."""

from collections.abc import Sequence
from io import BytesIO
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.applications.retrieval import Chunk, Plane
from course_lib.plots import PALETTE, drawable
from course_lib.widgets.shared.numbers import short

__all__ = ["retrieval_picture"]

_ROLES = PALETTE["light"]
_KINDS = {  # by which of the first two rankings a chunk is shown: marker, colour, name
    (True, False): ("s", _ROLES["key"], "by words"),
    (False, True): ("^", _ROLES["value"], "by meaning"),
    (True, True): ("D", "black", "by both"),
}
_ROWS = 8
_LEFTS = (5.0, 8.9, 12.8)  # inches, as are all that follow: of the rankings
_WIDTH, _HEIGHT, _ROW = 16.6, 7.2, 0.44


def retrieval_picture(chunks: Sequence[Chunk], plane: Plane | None, settings: dict, result: dict) -> bytes:
    """Draw what `RetrievalExplorer` shows of `chunks` with `settings`, of which `result` follows; return a PNG."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=72, facecolor="white")

    def write(x: float, y: float, text: str, **look) -> None:
        figure.text(x / _WIDTH, 1 - y / _HEIGHT, text, **{"fontsize": 15, "va": "top", "parse_math": False} | look)

    query = "Nothing is asked yet" if settings["query"] is None else drawable(" ".join(settings["query"].split()), 90)
    write(0.3, 0.2, query, fontsize=19, weight="bold")
    if plane is None:
        write(0.3, 0.9, "There is no map of these chunks.")
    else:
        _draw_map(figure.add_axes((0.3 / _WIDTH, 0.3, 4.3 / _WIDTH, 0.57)), plane, result)
        share = f"{len(chunks):,} chunks, {short(100 * plane.share, 2)} % of the variance"
        write(0.3, _HEIGHT - 1.1, share)
    titles = ("■ By words", "▲ By meaning", "Both, fused")
    for x, title, rows in zip(_LEFTS, titles, result["lists"], strict=True):
        write(x, 0.85, title, fontsize=16, weight="bold")
        for row, (item, score) in enumerate(rows[:_ROWS]):
            y, is_right = 1.35 + row * _ROW, result["right"] and item in result["right"]["items"]
            chunk = chunks[item]
            write(x, y, f"{'★' if is_right else row + 1} {drawable(chunk.work, 13)} {chunk.first}")
            write(x + 3.5, y, short(score), ha="right")
        if not rows:
            write(x, 1.35, "–")
    sides = {"Model, with passages": "with", "Model, without": "without", "Nearest line": "quote"}
    for (title, side), x in zip(sides.items(), _LEFTS, strict=True):
        write(x, _HEIGHT - 1.95, title, color=_ROLES["residual"])
        answer = result[side]
        text = "not asked" if answer is None else drawable(" ".join(answer["text"].split()), 90)
        write(x, _HEIGHT - 1.6, fill(text, 30))
    if result["confidence"] is not None:
        sure, least = short(result["confidence"], 2), short(settings["threshold"], 2)
        write(0.3, _HEIGHT - 0.65, f"confidence {sure}, threshold {least}{': refused' if result['refused'] else ''}")
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_map(ax: Axes, plane: Plane, result: dict) -> None:
    points = plane.points.numpy()
    ax.scatter(*points.T, s=3 if len(points) > 1000 else 20, color=_ROLES["residual"], alpha=0.3, linewidths=0)
    shown = [{item for item, _ in rows} for rows in result["lists"][:2]]
    for kind, (marker, colour, name) in _KINDS.items():
        items = [item for item in shown[0] | shown[1] if (item in shown[0], item in shown[1]) == kind]
        if items:
            ax.scatter(*points[items].T, s=70, marker=marker, color=colour, edgecolors="white", label=name)
    if result["point"]:
        ax.scatter(*result["point"], s=180, marker="X", color=_ROLES["query"], edgecolors="white", label="the query")
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, frameon=False, fontsize=15, handletextpad=0.2
        )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("#BBBBBB")
