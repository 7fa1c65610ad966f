"""ParallelismTimeline: what it shows is what the simulator says, in Python, in JupyterLab and in Notebook 7."""

import base64
import re

import pytest
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect

from course_lib.pretraining.parallelism import Job, Link, pipeline_parallel, tensor_parallel
from course_lib.widgets import ParallelismTimeline

CELLS = [
    "from course_lib.widgets import ParallelismTimeline",
    "view = ParallelismTimeline('1f1b', n_devices=4, n_microbatches=8)\nview",
]
PATIENCE = 60_000  # ms: an answer takes milliseconds on two cores, if they have nothing else to do
FAST = Link(50e9)

# ---------------------------------------------------------------- in Python


def test_it_shows_what_the_simulator_says():
    view = ParallelismTimeline("gpipe", n_devices=8, n_microbatches=16, link=12.5)
    wanted = pipeline_parallel(Job.of_model(), 8, Link(12.5e9), n_microbatches=16, schedule="gpipe")
    assert view.timeline == wanted
    assert view.result["speedup"] == wanted.speedup
    assert len(view.result["spans"]) == len(wanted.spans) + len(wanted.idle)
    view.set(scheme="tensor", n_devices=2)
    assert view.timeline == tensor_parallel(Job.of_model(), 2, Link(12.5e9))
    assert dict(view.result["speedups"])[2] == view.timeline.speedup


def test_settings_that_cannot_be_are_named_and_change_nothing():
    view = ParallelismTimeline("interleaved", n_devices=4, n_microbatches=4)
    before = view.settings, view.result
    with pytest.raises(ValueError, match="interleaving needs a multiple of the 8 devices"):
        view.set(n_devices=8)
    with pytest.raises(ValueError, match=r"scheme must be one of \('data', 'overlap'"):
        view.set(scheme="zigzag")
    with pytest.raises(ValueError, match="no such setting: colour"):
        view.set(colour="red")
    assert (view.settings, view.result) == before
    assert dict(view.result["speedups"])[8] is None  # and is not drawn


def test_saved_notebook_shows_a_picture_and_a_line_of_text():
    data, _ = ParallelismTimeline()._repr_mimebundle_()
    assert data["text/plain"] == "ParallelismTimeline: pipeline, 1F1B, 4 devices, 2.84 times as fast as one"
    assert 10_000 < len(base64.b64decode(data["image/png"])) < 200_000


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def widget(page) -> Locator:
    """The widget with 1F1B, 4 GPUs, 8 micro-batches and the link of 50 GB/s."""
    widget = page.locator(".parallelism-timeline")
    choose(widget, "What is divided", "Pipeline")
    choose(widget, "Pipeline: how", "1F1B")
    for name, place in (("GPUs", 2), ("micro-batches", 3), ("link", 5)):
        widget.get_by_role("slider", name=name).fill(str(place))
    cell(widget, "it takes", said(pipeline_parallel(Job.of_model(), 4, FAST).seconds))
    widget.get_by_role("slider", name="Time looked at").fill("1000")
    return widget


def choose(widget: Locator, group: str, name: str) -> None:
    button = widget.get_by_role("group", name=group).get_by_role("button", name=name, exact=True)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)


def cell(widget: Locator, row: str, text: str | re.Pattern) -> None:
    """Wait until the row of the table called `row` says `text`."""
    expect(widget.get_by_role("row", name=row).get_by_role("cell")).to_have_text(text, timeout=PATIENCE)


def said(seconds: float) -> str:
    return f"{seconds:.3g} s"


def test_the_measures_are_those_of_the_timeline(widget):
    timeline = pipeline_parallel(Job.of_model(), 4, FAST)
    cell(widget, "one GPU would take", said(timeline.job.seconds))
    cell(widget, "speed-up", f"{timeline.speedup:.2f} ×")
    cell(widget, "computing", f"{100 * timeline.efficiency:.1f} %")
    cell(widget, "the busiest GPU sends", f"{timeline.sent / 1e9:.3g} GB")
    cell(widget, "activations held", "4 micro-batches")
    expect(widget.get_by_role("img", name="Timeline of 4 GPUs over 3.61 seconds, 71 % of it computing")).to_be_visible()
    screenshot(widget, "parallelism_timeline_light")
    choose(widget, "Pipeline: how", "GPipe")
    cell(widget, "activations held", "8 micro-batches")


def test_every_way_is_explained_and_has_its_own_sliders(widget):
    choose(widget, "What is divided", "Tensor")
    cell(widget, "it takes", said(tensor_parallel(Job.of_model(), 4, FAST).seconds))
    expect(widget.locator(".idea")).to_contain_text("Four times a layer")
    expect(widget.get_by_role("slider", name="micro-batches")).to_be_hidden()
    screenshot(widget, "parallelism_timeline_tensor")
    choose(widget, "What is divided", "Experts")
    widget.get_by_role("slider", name="busiest expert").fill("5")
    cell(widget, "computing", re.compile(r"^[45]\d\.\d %$"))
    screenshot(widget, "parallelism_timeline_experts")
    choose(widget, "What is divided", "Data")
    expect(widget.locator(".idea")).to_contain_text("travel while the layers below still compute")
    choose(widget, "Data: how", "Gradients sent at the end")
    expect(widget.locator(".idea")).to_contain_text("summed over all GPUs before the step ends")
    expect(widget.get_by_role("row", name="activations held")).to_have_count(0)
    screenshot(widget, "parallelism_timeline_data")


def test_the_cursor_is_moved_by_keyboard_and_mouse_and_says_what_each_gpu_does(widget, page):
    doing = widget.get_by_role("list", name="At this time").get_by_role("listitem")
    expect(doing).to_have_text([f"GPU {device} is done" for device in range(4)])
    cursor = widget.get_by_role("slider", name="Time looked at")
    cursor.focus()
    page.keyboard.press("Home")
    expect(doing).to_have_text(["GPU 0 forward micro-batch 0", *(f"GPU {device} waits" for device in (1, 2, 3))])
    expect(cursor).to_have_attribute("aria-valuetext", "0.00 s")
    canvas = widget.get_by_role("img", name="Timeline of")
    width = canvas.evaluate("canvas => canvas.clientWidth")
    canvas.click(position={"x": 62 + (width - 78) / 2, "y": 30})  # the middle of the step
    expect(doing.nth(3)).to_contain_text(re.compile("forward|backward"))
    expect(cursor).to_have_value(re.compile(r"^(49\d|50\d)$"))


def test_it_plays_to_the_end_and_can_be_paused(widget):
    widget.get_by_role("button", name="Play").click()
    widget.get_by_role("button", name="Pause").click()
    expect(widget.get_by_role("button", name="Play")).to_be_visible()
    widget.get_by_role("button", name="Play").click()
    expect(widget.get_by_role("button", name="Pause")).to_be_visible()
    expect(widget.get_by_role("button", name="Play")).to_be_visible(timeout=PATIENCE)
    expect(widget.locator(".doing li").first).to_have_text("GPU 0 is done")


def test_what_cannot_be_is_said_and_the_sliders_go_back(widget):
    choose(widget, "Pipeline: how", "Interleaved")
    slider = widget.get_by_role("slider", name="micro-batches")
    slider.fill("1")
    expect(widget.get_by_role("alert")).to_contain_text("needs a multiple of the 4 devices", timeout=PATIENCE)
    expect(slider).to_have_value("3")
    expect(widget.get_by_role("list", name="Speed-up").get_by_role("listitem")).to_have_count(4)
    slider.fill("4")
    expect(widget.get_by_role("alert")).to_have_text("", timeout=PATIENCE)
    cell(widget, "activations held", re.compile("micro-batches$"))


def test_dark_theme_is_followed_while_the_widget_is_open(widget, page):
    light = widget.get_by_role("img").evaluate("canvas => canvas.toDataURL()")
    use_theme(page, "JupyterLab Dark")
    page.wait_for_function(
        "light => document.querySelector('.parallelism-timeline canvas').toDataURL() !== light", arg=light
    )
    screenshot(widget, "parallelism_timeline_dark")
    use_theme(page, "JupyterLab Light")


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width):
    widget.get_by_role("slider", name="GPUs").fill("3")
    expect(widget.get_by_role("img", name="Timeline of 8 GPUs")).to_be_visible(timeout=PATIENCE)
    page.set_viewport_size({"width": width, "height": 1700})
    screenshot(widget, f"parallelism_timeline_{width}")
    assert cut_off([widget, *widget.locator("section, table, .slider > *, .doing li, .speedups li > *").all()]) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_steps_where_nothing_shall_move_and_says_that_the_kernel_is_gone(open_notebook):
    page = open_notebook(CELLS, app="notebook", reduced_motion="reduce")
    widget = page.locator(".parallelism-timeline")
    step = widget.get_by_role("button", name="Step ▶")
    doing = widget.locator(".doing li").first
    step.focus()
    page.keyboard.press("Enter")
    expect(doing).to_have_text("GPU 0 forward micro-batch 0")
    page.keyboard.press("Enter")
    expect(doing).to_contain_text("forward micro-batch 1")
    shut_down_kernel(page)
    widget.get_by_role("slider", name="GPUs").fill("0")
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running")
