"""SamplingPlayground: its numbers in Python, and what a learner does with it in JupyterLab and Notebook 7."""

import base64
import math
import re
from io import BytesIO

import pytest
import torch
from browser import screenshot, shut_down_kernel, use_theme
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from playwright.sync_api import Locator, Page, expect
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from course_lib.devices import seed_everything
from course_lib.generation import Sampling, generate
from course_lib.plots import chip
from course_lib.transformer import TransformerConfig, TransformerLM
from course_lib.widgets import SamplingPlayground
from course_lib.widgets.sampling_tree import FILTERS, Node, cut_by

PROMPT = "The capital of France is"
CELLS = [
    "from course_lib.pretrained import load\nfrom course_lib.widgets import SamplingPlayground",
    'model, tokenizer = load("smollm2-135m-instruct")',
    f"playground = SamplingPlayground(model, tokenizer, {PROMPT!r})\nplayground",
]
PATIENCE = 60_000  # ms: dozens of tokens on two busy cores


def logits_after(model, ids: list[int]) -> torch.Tensor:
    """The logits (vocab,) of the token that follows `ids`, computed without a cache."""
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0, -1]


# ---------------------------------------------------------------- the filters and the tree


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 2),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.05, 1),
    min_p=st.none() | st.floats(0.01, 1),
)
def test_a_token_is_cut_by_the_first_filter_that_leaves_it_nothing(seed, temperature, top_k, top_p, min_p):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
    warpers = [
        TopKLogitsWarper(top_k) if top_k else None,
        TopPLogitsWarper(top_p) if top_p and top_p < 1 else None,
        MinPLogitsWarper(min_p) if min_p else None,
    ]
    scores = TemperatureLogitsWarper(temperature)(None, logits[None])
    expected = (scores[0].softmax(-1) == 0) * (1 + FILTERS.index("float32"))
    for name, warper in zip(("top-k", "top-p", "min-p"), warpers, strict=True):
        if warper is not None:
            scores = warper(None, scores)
        expected[(expected == 0) & scores[0].isinf()] = 1 + FILTERS.index(name)
    cut = cut_by(logits, Sampling(temperature, top_k, top_p, min_p))
    assert cut.tolist() == expected.tolist()


def test_temperature_0_cuts_all_but_the_likeliest():
    cut = cut_by(torch.tensor([0.0, 3.0, 2.0]), Sampling(0.0, top_k=2))
    assert [FILTERS[number - 1] if number else None for number in cut.tolist()] == [
        "temperature 0",
        None,
        "temperature 0",
    ]


def test_branches_are_listed_once_each_from_where_they_leave_an_earlier_one():
    root = Node()
    for text in ("abc", "abd", "x", "abde", "axy", "axz"):
        node = root
        for token in text:
            node = node.follow(ord(token), 0.5, 0.5)
    listed = ["".join(chr(node.token) for node in branch.nodes) for branch in root.branches()]
    assert listed == ["abc", "x", "xy", "z", "de"]
    assert ["".join(chr(node.token) for node in branch.leaf.path()) for branch in root.branches()] == [
        "abc", "x", "axy", "axz", "abde",
    ]  # fmt: skip
    assert [chr(node.token) for node in root.end().path()] == ["a", "x", "z"]


# ---------------------------------------------------------------- the widget in Python

SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.0),
    Sampling(temperature=0.05),
    Sampling(temperature=0.7, top_k=3),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.5, min_p=0.02),
    Sampling(temperature=2.0, top_k=40, top_p=0.7, min_p=0.01),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_odds_and_shares_are_those_of_sampling(smollm2, sampling):
    model, tokenizer = smollm2
    logits = logits_after(model, tokenizer.encode(PROMPT))
    own, now = logits.softmax(-1), sampling.probabilities(logits)
    result = SamplingPlayground(model, tokenizer, PROMPT, sampling).result
    assert [token["id"] for token in result["next"]] == logits.topk(12).indices.tolist()
    for token in result["next"]:
        assert token["before"] == pytest.approx(own[token["id"]].item(), rel=1e-3)
        assert token["now"] == pytest.approx(now[token["id"]].item(), rel=1e-3)
        assert (token["cut"] > 0) == (token["now"] == 0)
    assert result["shares"][0][0] == (now > 0).sum()
    assert sum(share for _, share in result["shares"]) == pytest.approx(1, abs=1e-3)
    bits = [torch.distributions.Categorical(p).entropy().item() / math.log(2) for p in (own, now)]
    assert result["entropy"] == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize("steps", [(6,), (1, 2, 3)])
def test_the_text_is_that_of_generate_with_the_same_seed_however_it_is_asked_for(smollm2, steps):
    model, tokenizer = smollm2
    sampling = Sampling(temperature=0.9, top_p=0.95)
    playground = SamplingPlayground(model, tokenizer, PROMPT, sampling, seed=3)
    for n_tokens in steps:
        playground.generate(n_tokens)
    tokens = generate(model, tokenizer.encode(PROMPT), 6, sampling, generator=torch.Generator().manual_seed(3))
    assert playground.generated == tokenizer.decode(tokens)


def test_another_prompt_starts_over_and_another_seed_writes_another_text(smollm2):
    playground = SamplingPlayground(*smollm2, "Once", seed=3)
    playground.generate(5)
    first = playground.generated
    playground.text = "Twice"
    assert playground.generated == "" and len(playground.result["branches"]) == 1
    playground.text = "Once"
    playground.generate(5)
    assert playground.generated == first
    playground.text = "Twice"
    playground.text, playground.seed = "Once", 4
    playground.generate(5)
    assert playground.generated != first


def tell(playground: SamplingPlayground, type: str, **request) -> None:
    """Send what the browser sends."""
    playground._answer(playground, {"type": type, "settings": {}, **request}, [])


def test_branching_and_walking_back(smollm2):
    model, tokenizer = smollm2
    playground = SamplingPlayground(model, tokenizer, PROMPT)
    playground.generate(8)
    first = playground.generated
    tell(playground, "look", depth=2)
    assert playground.generated == first
    ids = [token["id"] for token in playground.result["path"]]
    logits = logits_after(model, tokenizer.encode(PROMPT) + ids[:2])
    likeliest = playground.result["next"][0]
    assert likeliest["before"] == pytest.approx(logits.softmax(-1).max().item(), rel=1e-3)
    assert [token["id"] for token in playground.result["next"] if token["is_following"]] == [ids[2]]

    other = next(token["id"] for token in playground.result["next"] if token["id"] != ids[2])
    tell(playground, "take", id=other)
    assert playground.generated == tokenizer.decode([*ids[:2], other])
    playground.generate(3)
    second = playground.generated
    assert [(branch["from"], branch["length"]) for branch in playground.result["branches"]] == [(0, 8), (2, 4)]
    tell(playground, "walk", branch=0)
    assert playground.generated == first
    assert [branch["is_current"] for branch in playground.result["branches"]] == [True, False]
    assert [token["forks"] for token in playground.result["path"]] == [1, 1, 2, 1, 1, 1, 1, 1]
    tell(playground, "walk", branch=1)
    assert playground.generated == second


def test_a_cut_token_can_be_chosen_by_hand(smollm2):
    playground = SamplingPlayground(*smollm2, PROMPT, Sampling(temperature=1.0, top_k=1))
    last = playground.result["next"][-1]
    assert FILTERS[last["cut"] - 1] == "top-k"
    tell(playground, "take", id=last["id"])
    (token,) = playground.result["path"]
    assert (token["id"], token["own"], token["drawn"]) == (last["id"], last["before"], 0)


def test_wrong_settings_and_texts_change_nothing(smollm2):
    playground = SamplingPlayground(*smollm2, PROMPT, Sampling(temperature=0.5, top_k=7))
    for name, value in (("temperature", -1.0), ("top_k", 0), ("top_p", 1.5), ("min_p", 0.0)):
        with pytest.raises(ValueError, match=name):
            setattr(playground, name, value)
    with pytest.raises(ValueError, match="empty"):
        playground.text = ""
    assert (playground.text, playground.sampling) == (PROMPT, Sampling(temperature=0.5, top_k=7))


def test_a_full_context_is_said_and_the_text_kept(smollm2):
    _, tokenizer = smollm2
    seed_everything(0)
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 4, "d_ff": 40, "context_length": 8}
    gpt2 = {"positions": "learned", "norm": "layernorm", "feed_forward": "gelu_tanh", "bias": True}
    model = TransformerLM(TransformerConfig(vocab_size=tokenizer.vocab_size + 64, **sizes, **gpt2)).eval()
    playground = SamplingPlayground(model, tokenizer, PROMPT)
    with pytest.raises(ValueError, match="fills the 8 tokens that fit"):
        playground.generate(10)
    tell(playground, "look", depth=3)
    assert len(playground.result["path"]) == 3
    assert playground._repr_mimebundle_()[0]["image/png"]


def test_saved_notebook_shows_a_picture_and_a_line_of_text(smollm2):
    playground = SamplingPlayground(*smollm2, "It costs $5 or $6 <b>", Sampling(temperature=0.8, top_k=50))
    playground.generate(8)
    data, _ = playground._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert len(png) < 200_000
    assert imread(BytesIO(png)).shape == (480, 1100, 4)
    assert data["text/plain"] == (
        "SamplingPlayground: 10 prompt tokens, 8 generated; temperature 0.8, top_k 50; seed 0"
    )


# ---------------------------------------------------------------- in the browser


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
    assert [part for part in parts if part.evaluate("part => part.scrollWidth > part.clientWidth")] == []
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
