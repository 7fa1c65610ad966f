"""The timeline without a kernel: one still picture of a training step."""

from io import BytesIO

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from course_lib.plots import PALETTE
from course_lib.pretraining.parallelism import Timeline

__all__ = ["timeline_picture"]

_COLOURS = PALETTE["light"]
_LOOKS = {  # kind -> (lower edge and height in the device's row, how it is filled)
    "forward": (0.36, 0.54, {"facecolor": _COLOURS["query"]}),
    "backward": (0.36, 0.4, {"facecolor": _COLOURS["key"]}),
    "link": (0.08, 0.2, {"facecolor": _COLOURS["value"]}),
    "idle": (0.36, 0.54, {"facecolor": "white", "edgecolor": "#BBBBBB", "hatch": "////", "linewidth": 0}),
}


def timeline_picture(timeline: Timeline, title: str) -> bytes:
    """Draw devices as rows and seconds to the right; return a PNG."""
    n = timeline.n_devices
    figure = Figure(figsize=(11, 1.9 + 0.62 * n), dpi=100, facecolor="white")
    ax = figure.subplots()
    for span in (*timeline.spans, *timeline.idle):
        bottom, height, look = _LOOKS["link" if span.lane == "link" else span.kind]
        place = (span.start, n - 1 - span.device + bottom)
        ax.add_patch(Rectangle(place, span.seconds, height, **{"edgecolor": "white", "linewidth": 0.6} | look))
        if span.lane == "compute" and span.kind != "idle" and span.seconds > timeline.seconds / 40:
            middle = (span.start + span.seconds / 2, place[1] + height / 2)
            text = f"{span.kind[0].upper()}{span.part}"
            ax.text(*middle, text, color="white", fontsize=11, ha="center", va="center")
    ax.set(xlim=(0, timeline.seconds), ylim=(0, n))
    ax.set_yticks([n - 1 - device + 0.5 for device in range(n)], [f"GPU {device}" for device in range(n)], fontsize=12)
    ax.set_xlabel("seconds", fontsize=12)
    ax.tick_params(labelsize=12, left=False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    told = f"{title[0].upper()}{title[1:]}: {timeline.seconds:.3g} s, {timeline.speedup:.3g} times as fast as one GPU"
    ax.set_title(told, fontsize=14, weight="bold", loc="left")
    names = {"forward": "F forward", "backward": "B backward", "link": "sending", "idle": "idle"}
    figure.legend(
        handles=[Patch(label=names[kind], **look) for kind, (_, _, look) in _LOOKS.items()],
        loc="lower center",
        ncols=4,
        fontsize=12,
        frameon=False,
    )
    figure.subplots_adjust(
        left=0.07, right=0.985, top=1 - 0.5 / figure.get_figheight(), bottom=1.05 / figure.get_figheight()
    )
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()
