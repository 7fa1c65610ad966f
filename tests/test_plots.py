"""The visual language: one set of values for matplotlib and CSS; figures with the orientation that the course promises."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from course_lib import plots


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    matplotlib.use("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def luminance(colours: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours 0…255, as WCAG 2 defines it."""
    share = np.asarray(colours) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_the_ramp_goes_from_light_to_dark_and_back_on_a_dark_theme():
    light, dark = plots.attention_ramp("light"), plots.attention_ramp("dark")
    assert light.shape == (256, 3) and light.dtype == np.uint8
    assert (np.diff(luminance(light)) < 1e-3).all() and luminance(light)[0] > 0.9 and luminance(light)[-1] < 0.01
    assert (light[::-1] == dark).all()
    with pytest.raises(ValueError, match="dark"):
        plots.attention_ramp("blue")


def test_the_signed_ramp_has_the_background_in_its_middle_and_two_colours_at_its_ends():
    for theme, middle in (("light", 0.9), ("dark", 0.02)):
        ramp = plots.diverging_ramp(theme)
        seen = luminance(ramp)
        assert ramp.shape == (255, 3) and ramp.dtype == np.uint8
        assert seen.argmax() == 127 if theme == "light" else abs(seen.argmin() - 127) <= 6
        assert (seen[127] > middle) if theme == "light" else (seen[127] < middle)
        assert ramp[0, 2] > ramp[0, 0] and ramp[-1, 0] > ramp[-1, 2]  # blue below zero, red above
    with pytest.raises(ValueError, match="dark"):
        plots.diverging_ramp("blue")


@pytest.mark.parametrize(("theme", "background"), [("light", (255, 255, 255)), ("dark", (17, 17, 17))])
def test_every_role_stands_out_from_its_background(theme, background):
    for role, colour in plots.PALETTE[theme].items():
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        low, high = sorted((luminance(rgb), luminance(background)))
        assert (high + 0.05) / (low + 0.05) >= 4, (theme, role)


def test_css_holds_the_palette():
    sheet = plots.css_variables()
    for roles in plots.PALETTE.values():
        for role, colour in roles.items():
            assert f"--course-{role}: {colour};" in sheet


def test_chips_show_whitespace():
    assert plots.chip(" the\n\t") == "·the⏎⇥"


def test_a_picture_shows_what_its_fonts_lack_as_code_points_and_shortens():
    assert plots.drawable("·naïve α ⏎ \ufffd") == "·naïve α ⏎ \ufffd"
    assert plots.drawable("漢\x05🙂") == "U+6F22U+0005U+1F642"
    assert plots.drawable("paintings", 9) == "paintings" and plots.drawable("paintings", 8) == "paintin…"
    assert plots.drawable("a漢字b", 9) == "aU+6F22…"  # no half of a code point
    assert plots.drawable("漢", 4) == "…" and plots.drawable("") == ""


def test_token_chips_escape_html():
    html = plots.show_tokens([" <b>", "&"], [5, 6]).data
    assert "·&lt;b&gt;" in html and "&amp;" in html and 'title="id 5, position 0"' in html


def test_a_table_sets_in_bold_what_is_unusual_in_its_row():
    table = plots.show_table({"a": [1, "x"], "b": [1, "y"], "c": [2, None]}, ["two alike", "none alike"]).data
    assert re.findall("<b>(.+?)</b>", table) == ["2"]
    assert "–" in table


def test_matrix_has_position_0_top_left_and_keys_across():
    weights = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])
    plots.show_matrix(weights, ["a", "b"], ["x", "y", "z"])
    ax = plt.gcf().axes[0]
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and ax.get_xlim()[0] < ax.get_xlim()[1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "z"]
    assert [text.get_text() for text in ax.texts] == ["1", "0", "0", "0.25", "0.75", "0"]
    with pytest.raises(ValueError, match="3 queries"):
        plots.show_matrix(weights, ["a", "b", "c"])


def test_heads_have_layer_0_at_the_bottom():
    plots.show_heads(np.zeros((4, 3)), title="")
    ax = plt.gcf().axes[0]
    assert ax.get_ylim()[0] < ax.get_ylim()[1]


def test_curves_carry_their_numbers_and_two_cues():
    plots.show_curves([1, 2, 4], {"a": [1, 2, 3], "b": [3, 2, 1]}, xlabel="x", ylabel="y", log_x=True, level=(2, "two"))
    first, second = plt.gcf().axes[0].lines[:2]
    assert list(first.get_ydata()) == [1, 2, 3]
    assert first.get_color() != second.get_color() and first.get_linestyle() != second.get_linestyle()


def test_curves_can_be_a_file_that_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        plots.show_curves([1, 2, 4], {"a": [1, 2, 3]}, xlabel="x", ylabel="y", file=tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second and first.startswith(b"\x89PNG") and not plt.get_fignums()


def test_a_height_and_an_x_can_be_marked():
    plots.show_curves([1, 2], {"a": [1, 2]}, xlabel="x", ylabel="y", level=(1.5, "bound"), edge=(2, "trained to here"))
    ax = plt.gcf().axes[0]
    assert [text.get_text().strip() for text in ax.texts] == ["bound", "trained to here"]
    assert set(ax.lines[1].get_ydata()) == {1.5} and set(ax.lines[2].get_xdata()) == {2}


def test_shapes_of_multi_head_attention():
    plots.show_multi_head(n_positions=5, d_model=12, n_heads=3)
    texts = [text.get_text() for text in plt.gcf().axes[0].texts]
    assert [text for text in texts if "×" in text] == [
        "5 × 12",
        "3 × 5 × 4",
        "3 × 5 × 5",
        "3 × 5 × 4",
        "5 × 12",
        "5 × 12",
    ]
    cells = 5 * (12 + 12 + 3 * 5 + 12 + 12 + 12)
    assert len(plt.gcf().axes[0].patches) == cells


def test_owners_and_kinds_carry_a_letter_beside_the_colour():
    plots.show_owners({"one": [[0, 0, 1, 1], [0, 0, 1, 1]], "other": [[0, 0, 0, 0], [1, 1, 1, 1]]})
    assert [[text.get_text() for text in ax.texts] for ax in plt.gcf().axes] == [list("00110011"), list("00001111")]
    plots.show_head_kinds([["S", "P"], ["S", "S"], ["P", "S"]], {"P": "token before", "S": "sink"})
    ax = plt.gcf().axes[0]
    assert ax.get_ylim()[0] < ax.get_ylim()[1]  # layer 0 at the bottom
    assert [text.get_text() for text in ax.texts][6:] == ["P", "token before: 2", "S", "sink: 4"]


def test_clocks_turn_counter_clockwise_from_three_o_clock():
    plots.show_clocks([[0, np.pi / 2]])
    ax = plt.gcf().axes[0]
    tips = [text.xy for text in ax.texts]
    assert tips[0] == pytest.approx((0.4, 0)) and tips[1] == pytest.approx((1, -0.4))
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # so that −0.4 is up


def test_intervals_stand_where_their_points_are():
    plots.show_curves([1, 2], {"a": [3, 4], "b": [1, 1]}, xlabel="x", ylabel="y", intervals={"a": [(2, 5), (3, 6)]})
    (bars,) = plt.gcf().axes[0].collections
    assert [segment.tolist() for segment in bars.get_segments()] == [[[1, 2], [1, 5]], [[2, 3], [2, 6]]]
    with pytest.raises(ValueError, match="intervals for c, but no such curve"):
        plots.show_curves([1], {"a": [3]}, xlabel="x", ylabel="y", intervals={"c": [(2, 5)]})


def test_what_is_kept_is_filled_and_counted():
    plots.show_kept()
    found = {}
    for ax in plt.gcf().axes:
        filled = [patch for patch in ax.patches if patch.get_facecolor()[:3] != (1, 1, 1)]
        found[ax.get_title()] = len(ax.patches), len(filled), ax.texts[-1].get_text()
    assert found == {
        "multi-head": (12, 8, "keeps 4 keys, 4 values"),
        "grouped-query": (8, 4, "keeps 2 keys, 2 values"),
        "multi-query": (6, 2, "keeps 1 key, 1 value"),
        "latent": (13, 1, "keeps 1 latent"),
    }
