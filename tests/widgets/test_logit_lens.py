"""LogitLens: its numbers in Python, and what a learner does with it in JupyterLab and Notebook 7."""

import base64
import copy
import json
import math
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from matplotlib.image import imread
from playwright.sync_api import Locator, Page, expect
from traitlets import TraitError

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.attention import sinusoidal_positions
from course_lib.devices import seed_everything
from course_lib.inference.interpret import largest_tensor, logit_lens
from course_lib.plots import chip
from course_lib.widgets import LogitLens

SIZES = {"vocab_size": 50, "d_model": 24, "n_layers": 3, "n_heads": 6, "d_ff": 40, "context_length": 16}
LLAMA = TransformerConfig(**SIZES, n_kv_heads=2)
GPT2 = TransformerConfig(**SIZES, positions="learned", norm="layernorm", feed_forward="gelu", bias=True)
GEMMA = TransformerConfig(
    **SIZES, norm_position="sandwich", qk_norm="head", feed_forward="geglu", scaled_embeddings=True, window=4
)
VASWANI = TransformerConfig(
    **SIZES, positions="sinusoidal", norm="layernorm", norm_position="post", feed_forward="relu", bias=True
)
MODELS = {"llama": LLAMA, "gpt2": GPT2, "gemma": GEMMA, "vaswani": VASWANI}

SENTENCE = "The capital of France is Paris, and the capital of Italy is"
CELLS = [
    "from course_lib.checkpoints.loading import load\nfrom course_lib.widgets import LogitLens",
    'model, tokenizer = load("smollm2-135m-instruct")',
    f"lens = LogitLens(model, tokenizer, {SENTENCE!r})\nlens",
]
PATIENCE = 60_000  # ms: 31 unembeddings of 128 tokens take seconds on two busy cores

CONTRASTS = """widget => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((byte) => linear(byte / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...widget.querySelectorAll(".tint")].map((cell) => {
    const { color, backgroundColor } = getComputedStyle(cell);
    const [dark, light] = [luminance(color), luminance(backgroundColor)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  });
}"""
"""JavaScript: the contrast of text to background (WCAG 2) in every tinted element of a widget."""


@pytest.fixture(scope="module")
def lens(smollm2):
    """What interpret says of SENTENCE."""
    model, tokenizer = smollm2
    return logit_lens(model, torch.tensor(tokenizer.encode(SENTENCE)))


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def small(request):
    seed_everything(0)
    model = TransformerLM(request.param).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)  # fresh weights predict all tokens alike; make them choose
    return model


@pytest.fixture
def ids():
    return torch.randint(50, (9,), generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- interpret.logit_lens


def test_a_depth_reads_as_the_model_that_ends_there(small, ids):
    lens = logit_lens(small, ids, top=4)
    assert lens.top_ids.shape == (4, 9, 4)
    for depth in (1, 2, 3):
        shorter = copy.deepcopy(small)
        shorter.blocks = shorter.blocks[:depth]
        logits = shorter(ids[None])[0]
        likeliest, probabilities = logits.topk(4).indices, logits.softmax(-1)
        assert torch.equal(lens.top_ids[depth], likeliest)
        torch.testing.assert_close(lens.top_probabilities[depth], probabilities.gather(-1, likeliest))
        bits = torch.distributions.Categorical(probabilities).entropy() / torch.tensor(2.0).log()
        torch.testing.assert_close(lens.entropy[depth], bits)


def test_the_first_depth_is_the_embedding_and_the_last_exactly_the_model(small, ids):
    lens = logit_lens(small, ids)
    x = small.embedding(ids) * (24**0.5 if small.config.scaled_embeddings else 1)
    if small.config.positions == "learned":
        x = x + small.position_embedding.weight[:9]
    if small.config.positions == "sinusoidal":
        x = x + sinusoidal_positions(torch.arange(9), 24)
    likeliest = small.unembed(small.final_norm(x)).topk(10).indices
    assert torch.equal(lens.top_ids[0], likeliest)
    logits = small(ids[None])[0]
    exact = logits.log_softmax(-1).topk(10)
    assert torch.equal(lens.top_ids[-1], exact.indices)
    assert torch.equal(lens.top_probabilities[-1], exact.values.exp())
    assert torch.equal(lens.answer, logits.argmax(-1))


def test_the_answer_and_the_actual_next_token_are_followed_through_all_depths(small, ids):
    lens = logit_lens(small, ids, top=50)  # all of the vocabulary, so that each token's place can be looked up
    assert (lens.answer_rank[-1] == 1).all()
    assert lens.actual_rank.shape == lens.actual_probability.shape == (4, 8)
    for depth in range(4):
        for position in range(9):
            place = lens.top_ids[depth, position].tolist().index(lens.answer[position])
            assert lens.answer_rank[depth, position] == place + 1
            assert lens.answer_probability[depth, position] == lens.top_probabilities[depth, position, place]
        for position in range(8):
            place = lens.top_ids[depth, position].tolist().index(ids[position + 1])
            assert lens.actual_rank[depth, position] == place + 1
            assert lens.actual_probability[depth, position] == lens.top_probabilities[depth, position, place]


def test_the_lens_leaves_the_model_as_it_was_and_says_how_far_it_is(small, ids):
    before = small(ids[None])
    seen = []
    logit_lens(small, ids, on_layer=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.equal(small(ids[None]), before)
    with pytest.raises(IndexError):
        logit_lens(small, torch.tensor([50]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())


def test_no_tensor_is_larger_than_the_logits_of_one_depth():
    seed_everything(0)
    wide = TransformerLM(TransformerConfig(**SIZES | {"vocab_size": 20_000})).eval()
    ids = torch.arange(16)
    assert largest_tensor(lambda: logit_lens(wide, ids)) <= max(16 * 20_000 * 4, wide.embedding.weight.nbytes)


# ---------------------------------------------------------------- the widget in Python


def test_the_table_holds_the_likeliest_token_of_every_layer_and_position(smollm2, lens):
    model, tokenizer = smollm2
    widget = LogitLens(model, tokenizer, SENTENCE)
    shape = (31, len(lens.answer))
    ids = np.frombuffer(widget.result["ids"], np.int32).reshape(shape)
    probabilities = np.frombuffer(widget.result["probabilities"], np.float32).reshape(shape)
    np.testing.assert_array_equal(ids, lens.top_ids[..., 0])
    np.testing.assert_array_equal(probabilities, lens.top_probabilities[..., 0])
    assert {int(index) for index in widget.result["vocabulary"]} == set(ids.flatten().tolist())
    assert widget.result["vocabulary"][str(ids[-1, -1])]["piece"] == " Rome"


def test_text_and_pin_can_be_set_and_wrong_ones_change_nothing(smollm2):
    widget = LogitLens(*smollm2, "Hello, world")
    widget.pinned = 2
    with pytest.raises(TraitError, match="None or a position 0 … 2 of this text, not 3"):
        widget.pinned = 3
    with pytest.raises(ValueError, match="empty"):
        widget.text = ""
    with pytest.raises(ValueError, match="200 tokens and 128 fit: shorten it by 72"):
        widget.text = "The" + " cat" * 199
    assert (widget.text, widget.pinned) == ("Hello, world", 2)
    widget.text = "Hello"
    assert widget.pinned is None
    assert repr(widget).startswith("LogitLens: 30 layers, 1 token; the last one predicts '")


def test_saved_notebook_shows_a_picture_and_a_line_of_text(smollm2):
    widget = LogitLens(*smollm2, "It costs $5 or $6 <b>")
    data, _ = widget._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert len(png) < 300_000
    assert imread(BytesIO(png)).shape == (800, 1100, 4)
    assert data["text/plain"].startswith("LogitLens: 30 layers, 10 tokens; the last one predicts '")


def test_a_model_with_more_rows_than_tokens_can_be_shown(smollm2):
    _, tokenizer = smollm2
    seed_everything(0)
    model = TransformerLM(replace(GPT2, vocab_size=3 * tokenizer.vocab_size))
    widget = LogitLens(model.eval(), tokenizer, "any words")
    pieces = [token["piece"] for token in widget.result["vocabulary"].values()]
    assert any(re.fullmatch(r"<unused \d+>", piece) for piece in pieces)
    assert widget._repr_mimebundle_()[0]["image/png"]


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def widget(page) -> Locator:
    """The widget as it was in the beginning: SENTENCE, nothing pinned, the last token's prediction chosen."""
    widget = page.locator(".logit-lens")
    run_text(widget, SENTENCE)
    expect(widget.get_by_role("status")).to_have_text("30 layers, 13 tokens", timeout=PATIENCE)
    cell(widget, 30, 12).click()
    page.keyboard.press("Escape")
    page.mouse.move(0, 0)
    expect(widget.get_by_role("heading", name="Position 12 by layer", exact=True)).to_be_visible()
    return widget


def run_text(widget: Locator, text: str) -> None:
    widget.get_by_role("textbox", name="Text for the model").fill(text)
    widget.page.keyboard.press("Enter")


def cell(widget: Locator, depth: int, position: int) -> Locator:
    return widget.locator(f"[data-layer='{depth}'][data-position='{position}']")


def two_digits(probability: float) -> str:
    """How the widgets write a probability; see `twoDigits`."""
    if probability < 0.001:
        return "<0.001"
    if probability >= 0.995:
        return "1.0"
    digits = 1 - math.floor(math.log10(float(f"{probability:.1e}")))
    return f"{probability:.{digits}f}"


def test_every_cell_names_and_colours_its_likeliest_token(widget, lens, smollm2):
    _, tokenizer = smollm2
    expect(widget.get_by_role("gridcell")).to_have_count(31 * 13)
    for depth, position in ((0, 3), (15, 12), (24, 5), (30, 12)):
        piece = tokenizer.piece(lens.top_ids[depth, position, 0].item())
        probability = lens.top_probabilities[depth, position, 0].item()
        place = f"after layer {depth - 1}" if depth else "the embedding"
        label = re.compile(f"^{re.escape(f'{place}, position {position}: {json.dumps(piece)} ')}")
        expect(cell(widget, depth, position)).to_have_accessible_name(label)
        shown = cell(widget, depth, position).evaluate("cell => Number(getComputedStyle(cell).getPropertyValue('--p'))")
        assert shown == pytest.approx(probability, abs=1e-3)
        is_answer = lens.top_ids[depth, position, 0] == lens.answer[position]
        expect(cell(widget, depth, position)).to_have_css("font-weight", "700" if is_answer else "400")
    bottom, top = cell(widget, 0, 0).bounding_box(), cell(widget, 30, 0).bounding_box()
    assert bottom["y"] > top["y"]
    screenshot(widget, "logit_lens_light")


def test_text_is_legible_on_every_tint_in_both_themes(widget, page):
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        use_theme(page, theme)
        expect(widget).to_have_css("background-color", "rgb(255, 255, 255)" if "Light" in theme else re.compile("rgb"))
        assert min(widget.evaluate(CONTRASTS)) > 4.5


def test_pointing_at_a_cell_tells_its_likeliest_tokens(widget, page, lens, smollm2):
    _, tokenizer = smollm2
    cell(widget, 28, 10).hover()
    expect(widget.get_by_role("heading", name="After layer 27")).to_be_visible()
    rows = widget.get_by_role("listitem")
    expect(rows).to_have_count(10)
    for row, index, probability in zip(
        rows.all(), lens.top_ids[28, 10].tolist(), lens.top_probabilities[28, 10].tolist(), strict=True
    ):
        expect(row.locator(".chip")).to_have_text(chip(tokenizer.piece(index)))
        told = float(row.locator("b").inner_text().strip("<"))
        assert told == pytest.approx(probability, rel=0.06, abs=1e-3)
    expect(widget.locator(".place")).to_contain_text(f"entropy {lens.entropy[28, 10]:.1f} bits")
    page.mouse.move(0, 0)
    expect(widget.get_by_role("heading", name="After layer 29")).to_be_visible()


def test_cells_are_walked_and_pinned_by_keyboard(widget, page, lens, smollm2):
    _, tokenizer = smollm2
    cell(widget, 30, 12).focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "ArrowRight", "ArrowRight"):  # the last one stays at the edge
        page.keyboard.press(key)
    expect(cell(widget, 28, 12)).to_be_focused()
    expect(widget.locator("[role=gridcell][tabindex='0']")).to_have_count(1)
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(widget.locator("[aria-live=polite]")).to_have_text("position 0 pinned")
    page.keyboard.press("End")
    expect(widget.get_by_role("heading", name="Position 0 by layer · pinned")).to_be_visible()
    page.keyboard.press("PageDown")
    expect(widget.get_by_role("heading", name="Embedding")).to_be_visible()
    actual = widget.locator(".series .actual")
    expect(actual.locator(".chip")).to_have_text(chip(tokenizer.piece(tokenizer.encode(SENTENCE)[1])))
    expect(actual.locator("b")).to_have_text(
        f"{two_digits(lens.actual_probability[0, 0])}, rank {lens.actual_rank[0, 0]:,}"
    )
    screenshot(widget, "logit_lens_pinned")
    page.keyboard.press("Escape")
    expect(widget.get_by_role("heading", name="Position 12 by layer", exact=True)).to_be_visible()


def test_the_way_of_a_position_is_drawn_from_its_probabilities(widget, lens):
    cell(widget, 20, 5).hover()
    expect(widget.get_by_role("heading", name="Position 5 by layer", exact=True)).to_be_visible()
    for name, probabilities in (("answer", lens.answer_probability), ("actual", lens.actual_probability)):
        line = widget.locator(f"path.{name}")
        expect(line).to_have_count(1)
        heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.get_attribute("d"))]
        low, high = (float(widget.locator("line.grid").nth(i).get_attribute("y1")) for i in (0, 2))
        drawn = (np.array(heights) - low) / (high - low)
        np.testing.assert_allclose(drawn, probabilities[:, 5], atol=0.002)


def test_another_text_runs_the_model_and_the_last_one_asked_for_wins(widget, page):
    for text in ("Berlin is the capital of", "Rome lies in", "Madrid is the capital of"):
        run_text(widget, text)
    expect(widget.get_by_role("status")).to_have_text("30 layers, 6 tokens", timeout=PATIENCE)
    expect(cell(widget, 30, 5)).to_have_text("·Spain")


def test_128_tokens_scroll_inside_the_widget(widget, page):
    run_text(widget, "The" + " cat" * 127)
    expect(widget.get_by_role("status")).to_contain_text("Running the model: layer", timeout=PATIENCE)
    expect(widget.get_by_role("status")).to_have_text("30 layers, 128 tokens", timeout=PATIENCE)
    expect(widget.get_by_role("gridcell")).to_have_count(31 * 128)
    expect(cell(widget, 30, 127)).to_be_in_viewport()
    cell(widget, 30, 127).focus()
    page.keyboard.press("Home")
    expect(cell(widget, 30, 0)).to_be_in_viewport(ratio=1)
    expect(widget.locator("tfoot .chip").first).to_be_in_viewport(ratio=1)
    assert widget.evaluate("widget => widget.scrollWidth <= widget.clientWidth")
    screenshot(widget, "logit_lens_128_tokens")


def test_what_goes_wrong_is_said_in_the_widget(widget):
    for text, complaint in (("", "The text is empty"), ("The" + " cat" * 199, "200 tokens and 128 fit")):
        run_text(widget, text)
        expect(widget.get_by_role("alert")).to_contain_text(complaint)
        expect(widget.get_by_role("gridcell")).to_have_count(31 * 13)
    run_text(widget, "Again")
    expect(widget.get_by_role("status")).to_have_text("30 layers, 1 token", timeout=PATIENCE)
    expect(widget.get_by_role("alert")).to_have_text("")


def test_tokens_are_never_taken_for_markup(widget):
    run_text(widget, "<img src=x onerror=alert(1)> <script>")
    expect(widget.get_by_role("status")).not_to_have_text("30 layers, 13 tokens", timeout=PATIENCE)
    expect(widget.locator("tfoot .chip").first).to_have_text("<")
    assert widget.locator("img, script").count() == 0


def test_dark_theme_is_followed_while_the_widget_is_open(widget, page):
    expect(cell(widget, 0, 12)).to_have_css("color", "rgb(255, 255, 255)")  # on the light theme's dark violet
    use_theme(page, "JupyterLab Dark")
    page.mouse.move(0, 0)
    expect(cell(widget, 0, 12)).to_have_css("color", "rgb(0, 0, 0)")
    screenshot(widget, "logit_lens_dark")
    use_theme(page, "JupyterLab Light")
    expect(cell(widget, 0, 12)).to_have_css("color", "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [700, 900, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width):
    page.set_viewport_size({"width": width, "height": 1500})
    screenshot(widget, f"logit_lens_{width}")
    parts = [widget, *widget.locator("section, form, .odds, .series, tbody th").all()]
    assert cut_off(parts) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook")
    widget = page.locator(".logit-lens")
    run_text(widget, "Once upon a")
    expect(widget.get_by_role("status")).to_have_text("30 layers, 3 tokens", timeout=PATIENCE)
    expect(cell(widget, 30, 2)).to_have_text("·time")
    cell(widget, 30, 2).focus()
    page.keyboard.press("ArrowDown")
    expect(widget.get_by_role("heading", name="After layer 28")).to_be_visible()
    screenshot(widget, "logit_lens_notebook_7")
    shut_down_kernel(page)
    run_text(widget, "Anyone there?")
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running")
