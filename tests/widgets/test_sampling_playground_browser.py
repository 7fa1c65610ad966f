"""SamplingPlayground in the browser: what a learner does with it in JupyterLab and Notebook 7."""

import math
import re

import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect
from test_sampling_playground import PROMPT, SETTINGS, logits_after

from course_lib.inference import Sampling, generate
from course_lib.plots import chip

CELLS = [
    "from course_lib.checkpoints.loading import load\nfrom course_lib.widgets import SamplingPlayground",
    'model, tokenizer = load("smollm2-135m-instruct")',
    f"playground = SamplingPlayground(model, tokenizer, {PROMPT!r})\nplayground",
]
PATIENCE = 60_000  # ms: dozens of tokens on two busy cores


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def widget(page) -> Locator:
    """The widget as it was in the beginning: PROMPT, nothing generated, no filter, seed 0."""
    widget = page.locator(".sampling-playground")
    set_sliders(widget, Sampling(temperature=1.0))
    widget.get_by_role("spinbutton", name="seed").fill("0")
    run_text(widget, PROMPT)
    expect(widget.get_by_role("status")).to_have_text("5 prompt tokens, 0 generated", timeout=PATIENCE)
    page.mouse.move(0, 0)
    return widget


def run_text(widget: Locator, text: str) -> None:
    widget.get_by_role("textbox", name="Prompt").fill(text)
    widget.page.keyboard.press("Enter")


def set_sliders(widget: Locator, sampling: Sampling) -> None:
    places = [1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500, 1000, None]
    values = {
        "temperature": sampling.temperature,
        "top-k": places.index(sampling.top_k),
        "top-p": sampling.top_p or 1,
        "min-p": sampling.min_p or 0,
    }
    for name, value in values.items():
        widget.get_by_role("slider", name=name).fill(str(value))


def generate_tokens(widget: Locator, n_tokens: int, expected: int) -> None:
    widget.get_by_role("spinbutton", name="How many tokens to generate").fill(str(n_tokens))
    widget.get_by_role("button", name=f"Generate {n_tokens} token").click()
    expect(widget.get_by_role("status")).to_contain_text(f", {expected} generated", timeout=PATIENCE)


def chips(widget: Locator) -> Locator:
    """The generated tokens."""
    return widget.locator(".text .chip:not(.end)")


def rows(widget: Locator) -> Locator:
    return widget.locator(".odds").get_by_role("listitem")


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_sliders_move_the_odds_that_are_drawn_from(widget, smollm2, sampling):
    model, tokenizer = smollm2
    logits = logits_after(model, tokenizer.encode(PROMPT))
    now, own = sampling.probabilities(logits), logits.softmax(-1)
    set_sliders(widget, sampling)
    drawable = widget.locator(".settings table").get_by_role("row", name="can be drawn").get_by_role("cell").nth(1)
    expect(drawable).to_have_text(f"{(now > 0).sum():,}", timeout=PATIENCE)
    for row, index in zip(rows(widget).all(), logits.topk(12).indices.tolist(), strict=True):
        expect(row.locator(".chip")).to_have_text(chip(tokenizer.piece(index)))
        label = row.get_attribute("aria-label")
        told = re.search(r": ([<\d.]+) drawn from, ([<\d.]+) the model’s own", label).groups()
        for number, probability in zip(told, (now[index], own[index]), strict=True):
            assert float(number.strip("<")) == pytest.approx(probability.item(), rel=0.06, abs=1e-3)
        assert (told[0] == "0") == ("cut by" in label) == (now[index] == 0)
    entropy = torch.distributions.Categorical(now).entropy().item() / math.log(2)
    said = widget.locator(".settings p").inner_text()
    assert float(re.search(r"Entropy ([\d.]+) bits", said)[1]) == pytest.approx(entropy, abs=0.02)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(widget, smollm2):
    model, tokenizer = smollm2
    sampling = Sampling(temperature=1.0, top_k=50)
    set_sliders(widget, sampling)
    generate_tokens(widget, 10, 10)
    expected = generate(model, tokenizer.encode(PROMPT), 10, sampling, generator=torch.Generator().manual_seed(0))
    first = [chip(tokenizer.piece(index)) for index in expected]
    expect(chips(widget)).to_have_text(first)
    run_text(widget, PROMPT)
    expect(chips(widget)).to_have_count(0, timeout=PATIENCE)
    for n_tokens in range(1, 4):  # one at a time comes to the same
        widget.get_by_role("button", name="Sample one").click()
        expect(chips(widget)).to_have_text(first[:n_tokens], timeout=PATIENCE)
    run_text(widget, PROMPT)
    expect(chips(widget)).to_have_count(0, timeout=PATIENCE)
    seed = widget.get_by_role("spinbutton", name="seed")
    widget.get_by_role("button", name="New seed").click()
    expect(seed).not_to_have_value("0")
    seed.fill("7")
    seed.press("Enter")
    generate_tokens(widget, 10, 10)
    assert chips(widget).all_inner_texts() != first


def test_a_token_is_tinted_by_the_models_own_probability(widget, smollm2):
    model, tokenizer = smollm2
    generate_tokens(widget, 5, 5)
    ids = tokenizer.encode(PROMPT)
    generator = torch.Generator().manual_seed(0)
    for position, token in enumerate(generate(model, ids, 5, Sampling(temperature=1.0), generator=generator)):
        own = logits_after(model, ids).softmax(-1)[token].item()
        shown = chips(widget).nth(position).evaluate("chip => Number(chip.style.getPropertyValue('--p'))")
        assert shown == pytest.approx(own, abs=2e-3)
        ids.append(token)


def test_another_token_is_chosen_and_the_branch_walked_back(widget):
    generate_tokens(widget, 8, 8)
    first = chips(widget).all_inner_texts()
    chips(widget).nth(3).click()
    expect(chips(widget).nth(3)).to_have_attribute("aria-current", "true", timeout=PATIENCE)
    expect(widget.locator(".next p").first).to_contain_text("Before token 3")
    here = rows(widget).filter(has_text="in the text")
    expect(here).to_have_count(1)
    expect(here.locator(".chip")).to_have_text(first[3])
    other = rows(widget).filter(has_not_text="in the text").first.locator(".chip")
    chosen = other.inner_text()
    other.click()
    expect(chips(widget)).to_have_text([*first[:3], chosen], timeout=PATIENCE)
    generate_tokens(widget, 4, 8)
    expect(chips(widget).nth(3)).to_have_class(re.compile("fork"))
    branches = widget.get_by_role("list", name="Branches").get_by_role("button")
    expect(branches).to_have_count(2)
    screenshot(widget, "sampling_playground_branches")
    branches.first.click()
    expect(chips(widget)).to_have_text(first, timeout=PATIENCE)
    expect(branches.first).to_have_attribute("aria-current", "true")


def test_text_is_walked_and_tokens_chosen_by_keyboard(widget, page):
    generate_tokens(widget, 6, 6)
    live = widget.locator("[aria-live=polite]")
    expect(live).to_contain_text("The text now reads")
    widget.locator(".text .chip.end").focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    expect(chips(widget).nth(1)).to_be_focused()
    expect(widget.locator(".text [tabindex='0']")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(chips(widget).nth(1)).to_have_attribute("aria-current", "true", timeout=PATIENCE)
    expect(chips(widget).nth(1)).to_be_focused()
    rows(widget).first.get_by_role("button").focus()
    page.keyboard.press("Space")
    expect(widget.locator(".next p").first).not_to_contain_text("Before token 1.", timeout=PATIENCE)
    slider = widget.get_by_role("slider", name="top-k")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "1000 likeliest")


def test_generation_is_seen_can_be_stopped_and_settings_move_meanwhile(widget):
    set_sliders(widget, Sampling(temperature=1.0, top_k=1))
    run_text(widget, "one two " * 20)  # goes on like this, and does not end
    expect(widget.get_by_role("status")).to_contain_text(", 0 generated", timeout=PATIENCE)
    widget.get_by_role("spinbutton", name="How many tokens to generate").fill("400")
    widget.get_by_role("button", name="Generate 400 tokens").click()
    status = widget.get_by_role("status")
    expect(status).to_have_text(re.compile(r"Running the model: token \d+ of 400"), timeout=PATIENCE)
    expect(widget.get_by_role("button", name="Sample one")).to_be_disabled()
    widget.get_by_role("slider", name="top-k").fill("1")  # the slider's second place: the 2 likeliest
    drawable = widget.locator(".settings table").get_by_role("row", name="can be drawn").get_by_role("cell").nth(1)
    expect(drawable).to_have_text("2", timeout=PATIENCE)
    widget.get_by_role("button", name="Stop").click()
    expect(status).to_have_text(re.compile(r"prompt tokens, \d+ generated$"), timeout=PATIENCE)
    n_tokens = int(re.search(r"(\d+) generated", status.inner_text())[1])
    assert 0 < n_tokens < 400
    expect(chips(widget)).to_have_count(n_tokens)
    expect(widget.get_by_role("button", name="Sample one")).to_be_enabled()


def test_generation_ends_with_the_models_turn(widget):
    set_sliders(widget, Sampling(temperature=0.0))
    run_text(widget, "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n")
    expect(chips(widget)).to_have_count(0, timeout=PATIENCE)
    widget.get_by_role("spinbutton", name="How many tokens to generate").fill("100")
    widget.get_by_role("button", name="Generate 100 tokens").click()
    expect(chips(widget).last).to_have_text("<|im_end|>", timeout=PATIENCE)
    expect(widget.get_by_role("button", name="Sample one")).to_be_enabled()


def test_what_goes_wrong_is_said_in_the_widget(widget):
    generate_tokens(widget, 2, 2)
    for text, complaint in (("", "The text is empty"), ("The" + " cat" * 1099, "1100 tokens and 1023 fit")):
        run_text(widget, text)
        expect(widget.get_by_role("alert")).to_contain_text(complaint, timeout=PATIENCE)
        expect(chips(widget)).to_have_count(2)
    generate_tokens(widget, 1, 3)
    expect(widget.get_by_role("alert")).to_have_text("")


def test_tokens_are_never_taken_for_markup(widget):
    run_text(widget, "<img src=x onerror=alert(1)> <script>")
    expect(widget.get_by_role("status")).to_have_text("15 prompt tokens, 0 generated", timeout=PATIENCE)
    generate_tokens(widget, 5, 5)
    assert widget.locator("img, script").count() == 0


def test_dark_theme_is_followed_while_the_widget_is_open(widget, page):
    generate_tokens(widget, 12, 12)
    bar = widget.locator(".track .now").first
    expect(bar).to_have_css("background-color", "rgb(122, 62, 177)")
    screenshot(widget, "sampling_playground_light")
    use_theme(page, "JupyterLab Dark")
    expect(bar).to_have_css("background-color", "rgb(199, 155, 242)")
    set_sliders(widget, Sampling(temperature=1.5, top_k=100, top_p=0.9, min_p=0.05))
    screenshot(widget, "sampling_playground_dark")
    use_theme(page, "JupyterLab Light")


def test_reduced_motion_is_respected(widget, page):
    bar = widget.locator(".track .now").first
    expect(bar).to_have_css("transition-duration", "0.4s")
    page.emulate_media(reduced_motion="reduce")
    expect(bar).to_have_css("transition-property", "none")
    page.emulate_media(reduced_motion="no-preference")


@pytest.mark.parametrize("width", [700, 900, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width):
    generate_tokens(widget, 12, 12)
    set_sliders(widget, Sampling(temperature=1.5, top_k=1000, top_p=0.9, min_p=0.05))
    page.set_viewport_size({"width": width, "height": 1500})
    screenshot(widget, f"sampling_playground_{width}")
    parts = [widget, *widget.locator("section, form, .buttons, .slider, .odds, .text").all()]
    assert cut_off(parts) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook")
    widget = page.locator(".sampling-playground")
    generate_tokens(widget, 3, 3)
    widget.locator(".text .chip.end").focus()
    page.keyboard.press("ArrowLeft")
    expect(chips(widget).last).to_be_focused()
    screenshot(widget, "sampling_playground_notebook_7")
    shut_down_kernel(page)
    widget.get_by_role("button", name="Sample one").click()
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running")
    expect(widget.get_by_role("button", name="Sample one")).to_be_enabled()
