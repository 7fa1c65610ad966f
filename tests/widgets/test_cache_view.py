"""CacheView: its counts against the model's own work, and what a learner does with it in JupyterLab and Notebook 7."""

import base64
import re

import numpy as np
import pytest
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from matplotlib.colors import to_rgb
from playwright.sync_api import Locator, Page, expect
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.inference import generate
from course_lib.plots import PALETTE, chip
from course_lib.widgets import CacheView

PROMPT = "The paintings on the wall"  # five tokens
CELLS = [
    "from course_lib.checkpoints.loading import load\nfrom course_lib.widgets import CacheView",
    'model, tokenizer = load("smollm2-135m-instruct")',
    f"view = CacheView(model, tokenizer, {PROMPT!r})\nview",
]
PATIENCE = 60_000  # ms: a token on both sides takes a tenth of a second on two cores, if they have nothing else to do


# ---------------------------------------------------------------- in Python


@pytest.fixture
def view(smollm2) -> CacheView:
    return CacheView(*smollm2, PROMPT)


def test_both_sides_write_what_generate_writes(smollm2, view):
    model, tokenizer = smollm2
    for _ in range(4):
        view.step()
    ids = tokenizer.encode(PROMPT)
    wanted = [*ids, *generate(model, ids, 4)]
    assert [token["id"] for token in view.run["tokens"]] == wanted
    assert view.text == tokenizer.decode(wanted)
    for step, token in zip(view.steps, wanted[5:], strict=True):
        assert step["cached"]["chip"] == step["uncached"]["chip"] == chip(tokenizer.piece(token))


def test_the_cache_saves_computing_positions_but_not_reading_them(smollm2, view):
    model, _ = smollm2
    for _ in range(4):
        view.step()
    cached, uncached = ([step[side] for step in view.steps] for side in ("cached", "uncached"))
    assert [cost["n_new"] for cost in uncached] == [5, 6, 7, 8] and not any(cost["n_past"] for cost in uncached)
    assert [(cost["n_new"], cost["n_past"]) for cost in cached] == [(5, 0), (1, 5), (1, 6), (1, 7)]
    assert cached[0]["flops"] == uncached[0]["flops"]
    assert cached[1]["flops"] < cached[2]["flops"] < cached[3]["flops"] < uncached[1]["flops"] / 4
    a_position = sum(2 * model.config.n_kv_heads * 64 * 4 for _ in model.blocks)  # keys and values, float32
    assert [cost["cache_read"] for cost in cached] == [0, 5 * a_position, 6 * a_position, 7 * a_position]
    assert [cost["cache_size"] for cost in cached] == [n * a_position for n in (5, 6, 7, 8)]
    assert {cost["weights_read"] for cost in cached + uncached} == {sum(p.nbytes for p in model.parameters())}
    assert not any(cost["cache_read"] or cost["cache_size"] for cost in uncached)


@pytest.mark.parametrize("side", ["uncached", "cached"])
def test_operations_are_those_that_pytorch_counts_while_it_runs(view, side):
    view.step([side])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        view.step([side])
    assert view.steps[-1][side]["flops"] == counter.get_total_flops()


def test_a_cache_that_was_left_out_catches_up(smollm2, view):
    model, tokenizer = smollm2
    for sides in (["cached"], ["uncached"], ["uncached"], ["cached", "uncached"], ["cached"]):
        view.step(sides)
    assert [set(step) for step in view.steps[:3]] == [{"cached"}, {"uncached"}, {"uncached"}]
    assert [(step["cached"]["n_new"], step["cached"]["n_past"]) for step in view.steps[3:]] == [(3, 5), (1, 8)]
    ids = tokenizer.encode(PROMPT)
    assert view.text == tokenizer.decode([*ids, *generate(model, ids, 5)])


def test_it_ends_after_twenty_tokens_or_where_the_model_ends(smollm2, view, monkeypatch):
    _, tokenizer = smollm2
    for _ in range(22):
        view.step(["cached"])
    assert len(view.steps) == 20 and view.run["ended"]
    fourth = view.run["tokens"][8]["id"]
    monkeypatch.setattr(tokenizer, "end_ids", frozenset({fourth}))
    view.start(PROMPT)
    for _ in range(22):
        view.step(["cached"])
    assert len(view.steps) == 4 and view.run["ended"]


def test_what_does_not_fit_is_named_and_changes_nothing(smollm2, view):
    view.step(["cached"])
    before = view.run
    with pytest.raises(ValueError, match="empty"):
        view.start("")
    with pytest.raises(ValueError, match="40 tokens and 24 fit: shorten it by 16"):
        view.start("The" + " cat" * 39)
    with pytest.raises(ValueError, match=r"sides must be some of \('uncached', 'cached'\), not \['kv'\]"):
        view.step(["kv"])
    assert view.run == before
    with pytest.raises(ValueError, match="empty"):
        CacheView(*smollm2, "")


def test_saved_notebook_shows_a_picture_and_a_line_of_text_the_same_on_any_machine(view):
    first, _ = view._repr_mimebundle_()
    assert first["text/plain"] == "CacheView: 5 tokens of prompt, 0 of 20 generated"
    view.step()
    second, _ = view._repr_mimebundle_()
    assert second["text/plain"] == "CacheView: 5 tokens of prompt, 1 of 20 generated"
    assert second["image/png"] == first["image/png"]  # the schedule, and no timing
    assert 10_000 < len(base64.b64decode(first["image/png"])) < 200_000


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def widget(page) -> Locator:
    """The widget with PROMPT, no step yet, both sides."""
    widget = page.locator(".cache-view")
    start(widget, PROMPT)
    expect(status(widget)).to_have_text("5 tokens of prompt, 0 of 20 generated", timeout=PATIENCE)
    side(widget, "Both").click()
    return widget


def start(widget: Locator, text: str) -> None:
    widget.get_by_role("textbox", name="Text to continue").fill(text)
    widget.get_by_role("button", name="Start over").click()


def status(widget: Locator) -> Locator:
    return widget.locator(".prompt [role=status]")


def side(widget: Locator, name: str) -> Locator:
    return widget.get_by_role("group", name="Sides").get_by_role("button", name=name)


def step(widget: Locator, times: int) -> None:
    """Press Step so often, each time when the one before is done."""
    done = int(re.search(r"(\d+) of 20", status(widget).inner_text())[1])
    for n in range(done + 1, done + times + 1):
        widget.get_by_role("button", name="Step ▶").click(timeout=PATIENCE)
        expect(status(widget)).to_contain_text(f", {n} of 20 generated", timeout=PATIENCE)


def counts(widget: Locator, name: str) -> Locator:
    """The cells of the table's row called `name`."""
    return widget.get_by_role("row", name=name).get_by_role("cell")


def colours(widget: Locator, name: str, step: int, position: int) -> dict[str, str | None]:
    """How each bar of a cell is drawn: role -> "filled", "hollow" or None. Steps count from 1, positions from 0."""
    pixels, width = widget.get_by_role("img", name=name).evaluate(
        """(canvas, [step, position]) => {
            const cell = Math.floor((canvas.width / devicePixelRatio - 38) / 24);
            const box = [30 + cell * position + 1, 30 + 16 * (step - 1) + 1, cell - 2, 14].map((x) => x * devicePixelRatio);
            return [[...canvas.getContext("2d").getImageData(...box).data], box[2]];
        }""",
        [step, position],
    )
    image = np.array(pixels).reshape(-1, width, 4)[..., :3]
    drawn = {}
    for role in ("query", "key", "value"):
        rgb = [round(255 * part) for part in to_rgb(PALETTE["light"][role])]
        share = (np.abs(image - rgb).max(-1) <= 2).mean()
        drawn[role] = None if share == 0 else "filled" if share > 0.16 else "hollow"
    return drawn


COMPUTED = {"query": "filled", "key": "filled", "value": "filled"}
READ = {"query": None, "key": "hollow", "value": "hollow"}


def test_a_step_shows_its_counts_and_the_token_that_generate_chooses(widget, smollm2):
    model, tokenizer = smollm2
    step(widget, 3)
    ids = tokenizer.encode(PROMPT)
    wanted = [*ids, *generate(model, ids, 3)]
    expect(widget.locator(".written .chip")).to_have_text([chip(tokenizer.piece(i)) for i in wanted])
    expect(widget.locator(".written .next")).to_have_text(chip(tokenizer.piece(wanted[-1])))
    expect(counts(widget, "positions computed")).to_have_text(["7", "1"])
    expect(counts(widget, "positions read from the cache")).to_have_text(["0", "6"])
    expect(counts(widget, "their keys and values")).to_have_text(["0 MB", "0.28 MB"])  # 6 · 2 · 30 · 3 · 64 · 4 bytes
    expect(counts(widget, "weights read")).to_have_text(["540 MB", "540 MB"])
    expect(counts(widget, "cache after the step")).to_have_text(["0 MB", "0.32 MB"])
    expect(counts(widget, "time, measured here")).to_have_text([re.compile(r"^[\d,.]+ ms$")] * 2)
    expect(counts(widget, "token chosen")).to_have_text([chip(tokenizer.piece(wanted[-1]))] * 2)
    said = widget.locator(".costs [role=status] p")
    expect(said).to_have_text(
        [re.compile("^Without: .*all 7 positions"), re.compile("^With: one .* meets 7 keys, of which 6")]
    )


def test_what_is_computed_is_filled_what_is_read_is_hollow_and_no_query_is_kept(widget, page):
    step(widget, 3)
    expect(widget.get_by_role("img", name="meets 7 keys")).to_be_visible()  # its name comes with the drawing
    screenshot(widget, "cache_view_three_steps")
    for number in (1, 2, 3):
        for position in range(4 + number):
            is_new = number == 1 or position == 3 + number
            assert colours(widget, "Without a cache", number, position) == COMPUTED
            assert colours(widget, "With a key", number, position) == (COMPUTED if is_new else READ)
        nothing = dict.fromkeys(COMPUTED)
        assert colours(widget, "With a key", number, 4 + number) == nothing
    assert colours(widget, "Without a cache", 4, 0) == nothing


def test_it_plays_pauses_and_ends(widget, page):
    button = {name: widget.get_by_role("button", name=name) for name in ("Play", "Pause", "Step ▶")}
    button["Play"].click()
    expect(status(widget)).to_have_text(re.compile(r" ([3-9]|1\d) of 20 generated"), timeout=PATIENCE)
    button["Pause"].click()
    expect(button["Step ▶"]).to_be_enabled(timeout=PATIENCE)  # the token under way has come
    step(widget, 1)  # and no other came meanwhile
    button["Play"].click()
    expect(status(widget)).to_have_text("5 tokens of prompt, 20 of 20 generated: the end", timeout=5 * PATIENCE)
    expect(button["Play"]).to_be_disabled()
    expect(button["Step ▶"]).to_be_disabled()
    screenshot(widget, "cache_view_light")


def test_one_side_alone_can_be_run_and_the_other_catches_up(widget):
    side(widget, "Without a cache").click()
    step(widget, 2)
    expect(widget.get_by_role("img")).to_have_count(1)
    expect(counts(widget, "positions computed")).to_have_text(["6"])
    side(widget, "Both").click()
    expect(counts(widget, "positions computed")).to_have_text(["6", "–"])
    step(widget, 1)
    expect(counts(widget, "positions computed")).to_have_text(["7", "7"])
    step(widget, 1)
    expect(counts(widget, "positions computed")).to_have_text(["8", "1"])


def test_earlier_steps_are_looked_at_by_keyboard_and_mouse(widget, page):
    step(widget, 4)
    slider = widget.get_by_role("slider", name="Step looked at")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(widget.get_by_role("heading", name="Step 2 of 4")).to_be_visible()
    expect(slider).to_be_focused()
    expect(counts(widget, "positions computed")).to_have_text(["6", "1"])
    expect(widget.locator(".written .later")).to_have_count(2)
    page.keyboard.press("Home")
    expect(widget.locator(".costs [role=status]")).to_contain_text(
        "the cache is empty, so all 5 positions are computed"
    )
    widget.get_by_role("img", name=re.compile("^With a")).click(position={"x": 200, "y": 30 + 2.5 * 16})
    expect(widget.get_by_role("heading", name="Step 3 of 4")).to_be_visible()
    step(widget, 1)  # a new step is looked at
    expect(widget.get_by_role("heading", name="Step 5 of 5")).to_be_visible()


def test_another_text_starts_over_and_what_goes_wrong_is_said(widget):
    step(widget, 1)
    for text, complaint in (("", "The text is empty"), ("The" + " cat" * 39, "40 tokens and 24 fit")):
        start(widget, text)
        expect(widget.get_by_role("alert")).to_contain_text(complaint)
    start(widget, "<img src=x onerror=alert(1)> <script>")
    expect(status(widget)).to_contain_text(", 0 of 20 generated", timeout=PATIENCE)
    expect(widget.get_by_role("alert")).to_have_text("")
    step(widget, 1)
    assert widget.locator("img, script").count() == 0
    start(widget, "The" + " cat" * 23)
    expect(status(widget)).to_have_text("24 tokens of prompt, 0 of 20 generated", timeout=PATIENCE)
    step(widget, 2)
    screenshot(widget, "cache_view_longest")
    assert widget.evaluate("widget => widget.scrollWidth <= widget.clientWidth")


def test_dark_theme_is_followed_while_the_widget_is_open(widget, page):
    step(widget, 2)
    expect(widget.get_by_role("img", name="meets 6 keys")).to_be_visible()
    assert colours(widget, "Without a cache", 1, 0) == COMPUTED
    use_theme(page, "JupyterLab Dark")
    expect(widget.locator(".sample.key.read")).to_be_visible()
    screenshot(widget, "cache_view_dark")
    dark = tuple(round(255 * part) for part in to_rgb(PALETTE["dark"]["query"]))
    page.wait_for_function(
        """rgb => {
            const canvas = document.querySelector(".cache-view canvas");
            const at = [33 * devicePixelRatio, 38 * devicePixelRatio, 1, 1];
            return String(canvas.getContext("2d").getImageData(...at).data.slice(0, 3)) === String(rgb);
        }""",
        arg=list(dark),
    )
    use_theme(page, "JupyterLab Light")


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width):
    step(widget, 2)
    page.set_viewport_size({"width": width, "height": 1900})
    screenshot(widget, f"cache_view_{width}")
    parts = [widget, *widget.locator("section, .sides, .side, .controls, .costs, .legend, table").all()]
    assert cut_off(parts) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook", reduced_motion="reduce")
    widget = page.locator(".cache-view")
    widget.get_by_role("button", name="Step ▶").focus()
    page.keyboard.press("Enter")
    expect(status(widget)).to_have_text("5 tokens of prompt, 1 of 20 generated", timeout=PATIENCE)
    screenshot(widget, "cache_view_notebook_7")
    shut_down_kernel(page)
    widget.get_by_role("button", name="Play").click()
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running")
    expect(widget.get_by_role("button", name="Play")).to_be_visible()
