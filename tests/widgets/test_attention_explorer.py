"""AttentionExplorer: its numbers in Python, and what a learner does with it in JupyterLab and Notebook 7."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from matplotlib.image import imread
from playwright.sync_api import Locator, Page, expect

from course_lib.inference.interpret import capture_attention
from course_lib.plots import attention_ramp, chip
from course_lib.widgets import AttentionExplorer
from course_lib.widgets.shared.attention_maps import pool_maps

SENTENCE = "The cat sat on the mat because it was tired, and the cat"
CELLS = [
    "from course_lib.checkpoints.loading import load\nfrom course_lib.widgets import AttentionExplorer",
    'model, tokenizer = load("smollm2-135m-instruct")',
    f"explorer = AttentionExplorer(model, tokenizer, {SENTENCE!r}, layer=5, head=3)\nexplorer",
]
PATIENCE = 60_000  # ms: one pass over 512 tokens takes seconds on two cores


@pytest.fixture(scope="module")
def captured(smollm2):
    """What interpret says of SENTENCE."""
    model, tokenizer = smollm2
    return capture_attention(model, torch.tensor(tokenizer.encode(SENTENCE)))


# ---------------------------------------------------------------- in Python


@pytest.mark.parametrize("n_tokens", [5, 32, 33, 100])
def test_thumbnails_keep_the_largest_weight_of_every_block(n_tokens):
    maps = torch.randint(256, (2, 3, n_tokens, n_tokens), dtype=torch.uint8)
    pooled = pool_maps(maps).numpy()
    block = -(-n_tokens // 32)
    starts = range(0, n_tokens, block)
    expected = [[maps[:, :, q : q + block, k : k + block].amax((2, 3)).numpy() for k in starts] for q in starts]
    np.testing.assert_array_equal(pooled, np.array(expected).transpose(2, 3, 0, 1))
    assert pooled.shape[-1] <= 32


def test_next_tokens_are_the_models_own_with_heads_on_and_off(smollm2, captured):
    model, tokenizer = smollm2
    explorer = AttentionExplorer(model, tokenizer, SENTENCE)
    probabilities, ids = captured.logits[-1].softmax(-1).topk(10)
    assert [token["id"] for token in explorer.result["next"]] == ids.tolist()
    torch.testing.assert_close(torch.tensor([token["now"] for token in explorer.result["next"]]), probabilities)

    explorer.switch(2, 1, on=False)
    explorer.switch(0, 8, on=False)
    ablated = capture_attention(model, torch.tensor(tokenizer.encode(SENTENCE)), off=[(0, 8), (2, 1)])
    for token in explorer.result["next"]:
        assert token["now"] == pytest.approx(ablated.logits[-1].softmax(-1)[token["id"]].item(), rel=1e-4)
        assert token["before"] == pytest.approx(captured.logits[-1].softmax(-1)[token["id"]].item(), rel=1e-4)
    assert explorer.off == [(0, 8), (2, 1)]
    assert explorer.summary == "30 layers × 9 heads, 14 tokens, 2 off"

    explorer.switch(0, 8, on=True)
    explorer.switch(2, 1, on=True)
    assert [token["id"] for token in explorer.result["next"]] == ids.tolist()


def test_text_and_choice_can_be_set_and_wrong_ones_change_nothing(smollm2):
    explorer = AttentionExplorer(*smollm2, "Hello")
    explorer.text = "Hello, world"
    explorer.select(layer=29, head=8)
    assert explorer.summary == "30 layers × 9 heads, 3 tokens"
    with pytest.raises(ValueError, match="layer must be 0 … 29 in this model, not 30"):
        explorer.select(layer=30, head=0)
    with pytest.raises(ValueError, match="head must be 0 … 8 in this model, not 9"):
        explorer.switch(0, 9, on=False)
    with pytest.raises(ValueError, match="empty"):
        explorer.text = ""
    with pytest.raises(ValueError, match="600 tokens and 512 fit: shorten it by 88"):
        explorer.text = "The" + " cat" * 599
    assert (explorer.text, explorer.layer, explorer.head, explorer.off) == ("Hello, world", 29, 8, [])
    with pytest.raises(ValueError, match="empty"):
        AttentionExplorer(*smollm2, "")


def test_saved_notebook_shows_a_picture_and_a_line_of_text(smollm2):
    explorer = AttentionExplorer(*smollm2, "It costs $5 or $6 <b>", layer=5, head=3)
    data, _ = explorer._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert len(png) < 300_000
    assert imread(BytesIO(png)).shape == (600, 1100, 4)
    assert data["text/plain"].startswith(
        "AttentionExplorer: 30 layers × 9 heads, 10 tokens; layer 5, head 3; next token '"
    )


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def explorer(page) -> Locator:
    """The widget as it was in the beginning: SENTENCE, all heads on, layer 5, head 3, the matrix."""
    widget = page.locator(".attention-explorer")
    restore = widget.get_by_role("button", name="Switch all back on")
    if restore.is_enabled():
        restore.click()
    run_text(widget, SENTENCE)
    expect(widget.get_by_role("status")).to_have_text("30 layers × 9 heads, 14 tokens", timeout=PATIENCE)
    cell(widget, 5, 3).click()
    widget.get_by_role("button", name="Matrix").click()
    page.mouse.move(0, 0)
    return widget


def run_text(explorer: Locator, text: str) -> None:
    explorer.get_by_role("textbox", name="Text for the model").fill(text)
    explorer.page.keyboard.press("Enter")


def cell(explorer: Locator, layer: int, head: int) -> Locator:
    return explorer.get_by_role("gridcell", name=re.compile(rf"^layer {layer}, head {head}(, off)?$"))


def odds(explorer: Locator) -> list[tuple[float, float]]:
    """The next token's probabilities that the bars tell: (now, with all heads on)."""
    labels = [row.get_attribute("aria-label") for row in explorer.get_by_role("listitem").all()]
    numbers = [re.search(r": ([<\d.]+) now, ([<\d.]+) with all heads on$", label).groups() for label in labels]
    return [(float(now.strip("<")), float(before.strip("<"))) for now, before in numbers]


def aimed_at(explorer: Locator) -> tuple[int, int, float]:
    """The query, the key and the weight that the read-out names."""
    text = explorer.locator(".readout").inner_text()
    query, key = (int(position) for position in re.findall(r"position (\d+)", text))
    return query, key, float(re.search(r"weight ([\d.]+)", text)[1])


def colour_at(explorer: Locator, x: float, y: float) -> list[int]:
    """The colour of the chosen head's picture at (x, y) CSS pixels."""
    return explorer.get_by_role("application").evaluate(
        """(canvas, [x, y]) => [...canvas.getContext("2d")
            .getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data.slice(0, 3)]""",
        [x, y],
    )


def test_all_heads_are_shown_and_chosen_by_mouse_and_keyboard(explorer, page):
    expect(explorer.get_by_role("gridcell")).to_have_count(270)
    assert explorer.locator("*").count() < 800
    chosen = explorer.locator("[role=gridcell][tabindex='0']")
    cell(explorer, 12, 7).click()
    expect(explorer.get_by_role("heading", name="Layer 12, head 7")).to_be_visible()
    for key in ("ArrowUp", "ArrowRight", "ArrowRight"):  # the last one stays at the edge
        page.keyboard.press(key)
    expect(explorer.get_by_role("heading", name="Layer 13, head 8")).to_be_visible()
    expect(chosen).to_have_count(1)
    expect(chosen).to_be_focused()
    expect(chosen).to_have_attribute("aria-selected", "true")
    page.keyboard.press("PageDown")
    page.keyboard.press("Home")
    expect(explorer.get_by_role("heading", name="Layer 0, head 0")).to_be_visible()
    bottom, top = cell(explorer, 0, 0).bounding_box(), cell(explorer, 29, 0).bounding_box()
    assert bottom["y"] > top["y"]


def test_matrix_tells_and_colours_the_weights_that_interpret_captures(explorer, page, captured):
    matrix = explorer.get_by_role("application")
    box = matrix.bounding_box()
    spots = [(box["width"] * across, box["height"] * down) for across, down in ((0.35, 0.6), (0.55, 0.7), (0.6, 0.95))]
    for x, y in spots:
        matrix.hover(position={"x": x, "y": y})
        expect(explorer.locator(".readout")).to_contain_text("weight")
        query, key, weight = aimed_at(explorer)
        expected = captured.weights(5, 3)[query, key].item()
        assert weight == pytest.approx(expected, abs=0.005 + 1 / 255)
        page.mouse.move(0, 0)  # takes the cross-hair away
        expect(explorer.locator(".readout")).to_contain_text("Point at a token")
        byte = round(expected * 255)
        near = attention_ramp("light")[max(byte - 1, 0) : byte + 2].astype(int)
        assert np.abs(near - colour_at(explorer, x, y)).sum(1).min() <= 3
    screenshot(explorer, "attention_explorer_light")


def test_matrix_and_arcs_are_read_by_keyboard(explorer, page, captured, smollm2):
    _, tokenizer = smollm2
    ids = tokenizer.encode(SENTENCE)
    live = explorer.locator("[aria-live=polite]")
    matrix = explorer.get_by_role("application", name="Attention matrix")
    matrix.focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    expect(live).to_contain_text("layer 5 head 3: query")
    # The first key aims at the last token, the others move from there; the read-out follows in the next frame.
    expect(explorer.locator(".readout")).to_have_text(re.compile("position 12, .*position 10, "))

    explorer.get_by_role("button", name="Arcs").click()
    arcs = explorer.get_by_role("application", name="Attention arcs")
    arcs.focus()
    page.keyboard.press("ArrowDown")
    row = captured.maps[5, 3, 13]
    strongest, weight = tokenizer.piece(ids[row.argmax()]), row.max().item() / 255
    expect(live).to_have_text(f'layer 5 head 3: query " cat" attends most to "{strongest}" {weight:.2f}')
    page.keyboard.press("Enter")
    expect(live).to_have_text('query " cat" pinned')
    page.keyboard.press("ArrowUp")
    expect(explorer.locator(".readout")).to_contain_text("position 12")
    screenshot(explorer, "attention_explorer_arcs")
    page.keyboard.press("ArrowRight")
    expect(live).to_contain_text('key " the" gets most from')
    page.keyboard.press("Escape")
    expect(explorer.locator(".readout")).to_contain_text("Point at a token")


def test_switching_heads_off_moves_the_next_tokens_bars(explorer, page, smollm2):
    model, tokenizer = smollm2
    before = odds(explorer)
    assert all(now == all_on for now, all_on in before)
    cell(explorer, 0, 8).click()
    page.keyboard.press("Space")
    expect(explorer.get_by_role("button", name="Switch layer 0, head 8 back on")).to_be_visible()
    cell(explorer, 2, 1).click()
    explorer.get_by_role("switch", name="Layer 2, head 1").click()
    expect(explorer.locator(".odds.changed")).to_be_visible(timeout=PATIENCE)
    expect(cell(explorer, 2, 1)).to_have_accessible_name("layer 2, head 1, off")
    ablated = capture_attention(model, torch.tensor(tokenizer.encode(SENTENCE)), off=[(0, 8), (2, 1)])
    likeliest = ablated.logits[-1].softmax(-1).max().item()
    first = explorer.get_by_role("listitem").first
    expect(first).to_have_accessible_name(re.compile(rf": {likeliest:.2g}0* now"), timeout=PATIENCE)
    screenshot(explorer, "attention_explorer_heads_off")
    explorer.get_by_role("button", name="Switch all back on").click()
    expect(explorer.locator(".odds.changed")).to_have_count(0, timeout=PATIENCE)
    assert odds(explorer) == before


def test_another_text_runs_the_model_and_the_last_one_asked_for_wins(explorer, page, smollm2):
    model, tokenizer = smollm2
    for text in ("The capital of France", "The capital of Germany is a", "The capital of Italy is"):
        run_text(explorer, text)
    ids = tokenizer.encode("The capital of Italy is")
    expect(explorer.get_by_role("status")).to_have_text(f"30 layers × 9 heads, {len(ids)} tokens", timeout=PATIENCE)
    likeliest = capture_attention(model, torch.tensor(ids)).logits[-1].argmax().item()
    expect(explorer.get_by_role("listitem").first.locator(".chip")).to_have_text(chip(tokenizer.piece(likeliest)))


def test_what_goes_wrong_is_said_in_the_widget(explorer):
    for text, complaint in (("", "The text is empty"), ("The" + " cat" * 599, "600 tokens and 512 fit")):
        run_text(explorer, text)
        expect(explorer.get_by_role("alert")).to_contain_text(complaint)
        expect(explorer.locator("[role=gridcell]")).to_have_count(270)
    run_text(explorer, "Again")
    expect(explorer.get_by_role("status")).to_have_text("30 layers × 9 heads, 1 token", timeout=PATIENCE)
    expect(explorer.get_by_role("alert")).to_have_text("")


def test_tokens_are_never_taken_for_markup(explorer):
    run_text(explorer, "<img src=x onerror=alert(1)> <script>")
    of_another_text = re.compile(r"^30 layers × 9 heads, (?!14 )\d+ tokens$")
    expect(explorer.get_by_role("status")).to_have_text(of_another_text, timeout=PATIENCE)
    assert explorer.locator("img, script").count() == 0


def test_512_tokens_come_in_less_than_two_megabytes(explorer, page):
    received = []
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    client.on(
        "Network.webSocketFrameReceived", lambda event: received.append(len(event["response"]["payloadData"]) * 3 // 4)
    )
    run_text(explorer, "The" + " cat" * 511)
    expect(explorer.get_by_role("status")).to_contain_text("Running the model", timeout=PATIENCE)
    expect(explorer.get_by_role("status")).to_have_text("30 layers × 9 heads, 512 tokens", timeout=PATIENCE)
    expect(explorer.locator(".readout")).to_contain_text("Point at a token", timeout=PATIENCE)  # the whole map is here
    assert 500_000 < sum(received) < 2_000_000
    explorer.get_by_role("application").hover(position={"x": 200, "y": 400})
    query, key, _ = aimed_at(explorer)
    assert 0 < key < query < 512
    screenshot(explorer, "attention_explorer_512_tokens")


def test_dark_theme_is_followed_while_the_widget_is_open(explorer, page):
    matrix = explorer.get_by_role("application")
    box = matrix.bounding_box()
    spot = box["width"] * 0.4, box["height"] * 0.9
    light = colour_at(explorer, *spot)
    use_theme(page, "JupyterLab Dark")
    page.mouse.move(0, 0)
    expect(explorer.locator(".scale")).to_have_css("background-image", re.compile(r"to right, rgb\(0, 0, [34]\)"))
    screenshot(explorer, "attention_explorer_dark")
    dark = colour_at(explorer, *spot)
    ramp = attention_ramp("light").astype(int)
    assert dark == ramp[255 - np.abs(ramp - light).sum(1).argmin()].tolist()
    use_theme(page, "JupyterLab Light")
    expect(explorer.locator(".scale")).to_have_css("background-image", re.compile(r"rgb\(0, 0, [34]\)\)$"))


def test_reduced_motion_is_respected(explorer, page):
    bar = explorer.locator(".track .now").first
    expect(bar).to_have_css("transition-duration", "0.4s")
    page.emulate_media(reduced_motion="reduce")
    expect(bar).to_have_css("transition-property", "none")
    page.emulate_media(reduced_motion="no-preference")


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(explorer, page, width):
    page.set_viewport_size({"width": width, "height": 1500})
    screenshot(explorer, f"attention_explorer_{width}")
    parts = [explorer, *explorer.locator("section, header, form, .stage").all()]
    assert cut_off(parts) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook")
    explorer = page.locator(".attention-explorer")
    run_text(explorer, "Once upon a time")
    expect(explorer.get_by_role("status")).to_have_text("30 layers × 9 heads, 4 tokens", timeout=PATIENCE)
    cell(explorer, 5, 3).click()
    page.keyboard.press("ArrowDown")
    expect(explorer.get_by_role("heading", name="Layer 4, head 3")).to_be_visible()
    screenshot(explorer, "attention_explorer_notebook_7")
    shut_down_kernel(page)
    run_text(explorer, "Anyone there?")
    expect(explorer.get_by_role("alert")).to_contain_text("The kernel is not running")
