"""ScalePlanner: its plans are the library's, beside the published figures, in JupyterLab and Notebook 7."""

import base64
import re
from dataclasses import replace

import pytest
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect

from course_lib.pretraining.scaling import PUBLISHED, plan
from course_lib.widgets import ScalePlanner

CELLS = ["from course_lib.widgets import ScalePlanner", "planner = ScalePlanner('Llama 3 405B')\nplanner"]
FIRST_DAYS = [re.compile(r"^0\.4")]  # of "A first model", which has no published figure beside it
PATIENCE = 60_000  # ms: an answer takes milliseconds on two cores, if they have nothing else to do

# ---------------------------------------------------------------- in Python


def test_it_plans_what_the_library_plans():
    planner = ScalePlanner("Llama 3 405B")
    run = PUBLISHED["Llama 3 405B"].run
    assert planner.run == run and planner.plan == plan(run)
    planner.set(n_gpus=2048, mfu=0.5)
    assert planner.plan == plan(replace(run, n_gpus=2048, mfu=0.5))
    assert planner.result["figures"]["days"] == planner.plan.days
    assert [sum(memory.values()) for memory in planner.result["stages"]] == [
        sum(plan(replace(planner.run, stage=stage)).memory.values()) for stage in range(4)
    ]


def test_a_mixture_of_experts_is_scaled_as_a_whole():
    planner = ScalePlanner("DeepSeek-V3")
    planner.set(parameters=2 * 671e9)
    assert planner.run.active == pytest.approx(2 * 37e9)
    assert planner.run.expert_parameters == pytest.approx(2 * PUBLISHED["DeepSeek-V3"].run.expert_parameters)
    planner.set(example="Llama 3 405B")
    assert planner.run == PUBLISHED["Llama 3 405B"].run  # nothing of the other is left


def test_settings_that_cannot_be_are_named_and_change_nothing():
    planner = ScalePlanner("A first model")
    before = planner.settings, planner.result
    with pytest.raises(ValueError, match="8 GPUs do not divide into groups"):
        planner.set(tensor=16)
    with pytest.raises(ValueError, match=r"example must be one of \('A first model', 'Llama 3 405B', 'DeepSeek-V3'"):
        planner.set(example="GPT-7")
    assert (planner.settings, planner.result) == before


def test_saved_notebook_shows_a_picture_and_a_line_of_text():
    data, _ = ScalePlanner("DeepSeek-V3")._repr_mimebundle_()
    assert data["text/plain"] == (
        "ScalePlanner: 6.71e+11 parameters, 1.48e+13 tokens on 2,048 H800: 72 GB a GPU, 53.6 days, $5.27e+06"
    )
    assert 10_000 < len(base64.b64decode(data["image/png"])) < 200_000


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS, height=1300)


@pytest.fixture
def widget(page) -> Locator:
    """The widget with the run of Llama 3."""
    widget = page.locator(".scale-planner")
    begin(widget, "A first model")
    cells(widget, "days", FIRST_DAYS)  # the button is pressed before the plan is there
    begin(widget, "Llama 3 405B")
    cells(widget, "days", ["66", "–"])
    return widget


def begin(widget: Locator, name: str) -> None:
    button = widget.get_by_role("button", name=name)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)


def cells(widget: Locator, row: str, texts: list[str]) -> None:
    """Wait until the row called `row` says these texts."""
    expect(widget.get_by_role("row", name=row).get_by_role("cell")).to_have_text(texts, timeout=PATIENCE)


def stage(widget: Locator, number: int) -> Locator:
    return widget.get_by_role("group", name="ZeRO stage").get_by_role("button", name=f"ZeRO {number}")


def test_the_published_figures_stand_beside_the_planned_ones(widget):
    cells(widget, "operations", ["3.79 × 1025", "3.80 × 1025"])
    cells(widget, "GPU hours", ["26 million", "30.8 million"])
    expect(widget.locator(".figures")).to_contain_text("arXiv 2407.21783")
    screenshot(widget, "scale_planner_llama")
    begin(widget, "DeepSeek-V3")
    cells(widget, "GPU hours", ["2.64 million", "2.66 million"])
    cells(widget, "days", ["53.6", "54.2"])
    cells(widget, "cost", ["$5.27 million", "$5.33 million"])
    expect(widget.locator(".figures")).to_contain_text("400 tokens for each parameter that a token meets")
    screenshot(widget, "scale_planner_deepseek")
    begin(widget, "A first model")
    cells(widget, "days", FIRST_DAYS)
    screenshot(widget, "scale_planner_first")


def test_half_the_gpus_take_twice_the_days_for_the_same_money(widget, page):
    slider = widget.get_by_role("slider", name="number")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    cells(widget, "days", ["132", "–"])
    cells(widget, "cost", ["$51.9 million", "–"])
    expect(slider).to_be_focused()
    expect(slider).to_have_attribute("aria-valuetext", "8,192")


def test_a_zero_stage_is_chosen_by_its_bar_which_says_what_it_takes(widget, page):
    expect(widget.get_by_role("status")).to_have_text("✓ Fits, with 1.45 GB to spare.")
    expect(stage(widget, 2)).to_have_attribute("aria-pressed", "true")
    stage(widget, 0).focus()
    page.keyboard.press("Enter")
    expect(stage(widget, 0)).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
    expect(widget.get_by_role("status")).to_have_text("✗ Does not fit: 42.5 GB too much on each GPU.")
    expect(stage(widget, 0)).to_have_accessible_name(
        "ZeRO 0: 122 GB: weights 6.33 GB, gradients 6.33 GB, optimizer 38 GB, activations 71.9 GB"
    )


def test_bars_are_as_long_as_their_bytes_and_the_line_is_the_gpus_memory(widget):
    first = stage(widget, 0).locator(".track")
    widths = [
        first.locator(f".{role}").evaluate("part => part.getBoundingClientRect().width") for role in ("key", "value")
    ]
    assert widths[1] / widths[0] == pytest.approx(6, rel=0.02)
    track = first.bounding_box()
    line = widget.locator(".room").evaluate("room => [room.getBoundingClientRect().left, room.clientWidth]")
    assert line == pytest.approx([track["x"], track["width"]], abs=1.5)


def test_what_cannot_be_is_said_and_the_slider_goes_back(widget):
    begin(widget, "A first model")
    slider = widget.get_by_role("slider", name="tensor parallel")
    slider.fill("4")
    expect(widget.get_by_role("alert")).to_contain_text("8 GPUs do not divide into groups", timeout=PATIENCE)
    expect(slider).to_have_value("0")
    expect(widget.get_by_role("slider", name="expert parallel")).to_be_hidden()
    slider.fill("3")
    expect(widget.get_by_role("alert")).to_have_text("", timeout=PATIENCE)


def test_dark_theme_is_followed(widget, page):
    use_theme(page, "JupyterLab Dark")
    expect(widget.locator(".track .query").first).to_have_css("background-color", "rgb(86, 180, 233)")
    screenshot(widget, "scale_planner_dark")
    use_theme(page, "JupyterLab Light")


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width):
    page.set_viewport_size({"width": width, "height": 1900})
    screenshot(widget, f"scale_planner_{width}")
    parts = "section, table, .slider > *, .choice, .stages button > span:first-child, .stages b"
    assert cut_off([widget, *widget.locator(parts).all()]) == []
    page.set_viewport_size({"width": 1400, "height": 1300})


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook")
    widget = page.locator(".scale-planner")
    begin(widget, "DeepSeek-V3")
    cells(widget, "days", ["53.6", "54.2"])
    shut_down_kernel(page)
    widget.get_by_role("slider", name="MFU").fill("10")
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running")
