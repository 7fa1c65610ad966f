"""The comparer of stored pictures: another font, a shifted or grainy picture is the same; a swapped or a blank one is not."""

import base64
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from nbformat import NotebookNode
from nbformat.v4 import new_output
from pictures import complaint, wrong_outputs
from PIL import Image

from course_lib import plots

STEPS = list(range(40))
LOSS = {"training": [4 / (1 + step) + 1 for step in STEPS], "held out": [3 / (1 + step) + 1.5 for step in STEPS]}
RISE = {"training": [0.1 * step for step in STEPS], "held out": [0.08 * step for step in STEPS]}
CAUSAL = np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]
WORDS = ["The", " paintings", " on", " the", " wall", " are"]


def curves(data: dict) -> None:
    plots.show_curves(STEPS, data, xlabel="step", ylabel="loss (bits a byte)")


def matrix(weights: np.ndarray) -> None:
    plots.show_matrix(weights, WORDS, title="Causal")


DRAWINGS = {
    "falling curves": lambda: curves(LOSS),
    "rising curves": lambda: curves(RISE),
    "a causal matrix": lambda: matrix(CAUSAL),
    "a diagonal matrix": lambda: matrix(np.eye(6)),
}


def stored(image: Image.Image) -> str:
    png = BytesIO()
    image.save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    matplotlib.use("agg")
    monkeypatch.setattr(plt, "show", lambda: None)


def draw(name: str) -> Image.Image:
    """Return one of `DRAWINGS` as a notebook shows it."""
    DRAWINGS[name]()
    png = BytesIO()
    plt.savefig(png, bbox_inches="tight")
    plt.close("all")
    return Image.open(png).convert("RGB")


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image.Image]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "show", lambda: None)
        return {name: draw(name) for name in DRAWINGS}


@pytest.mark.parametrize("name", DRAWINGS)
def test_another_font_a_shift_and_grain_are_the_same_picture(drawn, name):
    picture = drawn[name]
    others = [stored(drawn[other]) for other in DRAWINGS if other != name]
    with matplotlib.rc_context({"font.family": "monospace"}):
        assert complaint(stored(picture), stored(draw(name)), others) == ""
    shifted = Image.fromarray(np.roll(np.asarray(picture), (1, 1), axis=(0, 1)))
    assert complaint(stored(picture), stored(shifted), others) == ""
    grain = np.random.default_rng(0).normal(0, 12, np.shape(picture))
    grainy = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
    assert complaint(stored(picture), stored(grainy), others) == ""


def test_a_curve_that_another_training_drew_is_the_same_picture(drawn, monkeypatch):
    chance = np.random.default_rng(0)
    for name, values in LOSS.items():
        monkeypatch.setitem(LOSS, name, [value * chance.normal(1, 0.05) for value in values])
    again = stored(draw("falling curves"))
    assert complaint(stored(drawn["falling curves"]), again, [stored(drawn["rising curves"])]) == ""


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_swapped_and_a_blank_picture_are_not(drawn, name):
    own = stored(drawn[name])
    blank = stored(Image.new("RGB", drawn[name].size, "white"))
    assert "not the one" in complaint(blank, own)
    assert "not the one" in complaint(blank, blank)  # a cell that draws nothing
    for other in set(DRAWINGS) - {name}:
        assert complaint(stored(drawn[other]), own, [own])


def test_of_two_pictures_nearly_alike_the_nearer_one_counts(drawn):
    picture = drawn["a causal matrix"]
    tilted = stored(picture.rotate(1, fillcolor="white"))
    assert complaint(tilted, stored(picture)) == ""
    assert "another cell" in complaint(tilted, stored(picture), [stored(picture)])


def test_a_cells_outputs_are_of_the_stored_kinds_and_draw_the_stored_pictures(drawn):
    falling, rising = (stored(drawn[name]) for name in ("falling curves", "rising curves"))

    def outputs(*pictures: str, stream: str = "stdout") -> list[NotebookNode]:
        shown = [new_output("display_data", {"image/png": picture}) for picture in pictures]
        return [new_output("stream", name=stream, text="1.0"), *shown]

    both = [falling, rising]
    assert wrong_outputs(outputs(*both), outputs(*both), both) == ""
    assert "not the one" in wrong_outputs(outputs(*both), outputs(rising, falling), both)
    assert "1 pictures are stored, the cell draws 2" in wrong_outputs(outputs(falling), outputs(*both), both)
    assert "stderr" in wrong_outputs(outputs(falling), outputs(falling, stream="stderr"), both)
    assert "image/png" in wrong_outputs(outputs(), outputs(falling), both)
