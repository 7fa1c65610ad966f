"""TokenizerView: its numbers in Python, and what a learner does with it in JupyterLab and Notebook 7."""

import base64
import re
from io import BytesIO

import pytest
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from matplotlib.image import imread
from playwright.sync_api import Locator, Page, expect
from tokenizer_peers import gemma3, llama3, loaded, mistral, qwen3
from traitlets import TraitError

from course_lib.plots import chip
from course_lib.tokenization import Tokenizer
from course_lib.widgets import TokenizerView

SENTENCE = "The tokenizer reads unbelievably well: naïve 👍 123"
CELLS = [
    "from course_lib import checkpoints\nfrom course_lib.tokenization import load_tokenizer\n"
    "from course_lib.widgets import TokenizerView",
    'tokenizer = load_tokenizer(checkpoints.convert("smollm2-135m-instruct", thorough=False))',
    f"view = TokenizerView(tokenizer, {SENTENCE!r})\nview",
]


@pytest.fixture(scope="module")
def tokenizer(smollm2) -> Tokenizer:
    return smollm2[1]


# ---------------------------------------------------------------- in Python


def test_it_shows_what_the_tokenizer_says(tokenizer):
    view = TokenizerView(tokenizer, SENTENCE)
    ids = tokenizer.encode(SENTENCE)
    assert [token["id"] for token in view.result["tokens"]] == ids
    assert [token["piece"] for token in view.result["tokens"]] == [tokenizer.piece(i) for i in ids]
    assert view.result["words"] == [len(word) for word in tokenizer.encode_words(SENTENCE)]
    assert view.result["sizes"] == {"token": len(ids), "character": 50, "byte": 54}
    assert view.replay["word"] == " unbelievably"  # at first the word with the most to merge
    steps = tokenizer.merge_steps(" unbelievably")
    assert [tuple(step["ids"]) for step in view.replay["steps"]] == [step.ids for step in steps]
    assert [step["rank"] for step in view.replay["steps"]] == [step.rank for step in steps]


def test_word_and_step_can_be_set_and_wrong_ones_change_nothing(tokenizer):
    view = TokenizerView(tokenizer, "one two")
    view.word = 1
    assert view.replay["word"] == " two" and view.step == 0
    view.step = len(view.replay["steps"]) - 1
    view.word = 0
    assert view.replay["word"] == "one" and view.step == 0
    for name, wrong in (("word", 2), ("word", -1), ("step", 99)):
        with pytest.raises(TraitError, match=rf"{name} must be 0 … \d+ of this"):
            setattr(view, name, wrong)
    for text, complaint in (("", "empty"), ("a b" * 1000, "tokens and 1000 fit"), ("\ud83d", "lone surrogate")):
        with pytest.raises(ValueError, match=complaint):
            view.text = text
    assert (view.text, view.word, view.step) == ("one two", 0, 0)
    view.text = "a remarkable thing"
    assert view.replay["word"] == " remarkable"


@pytest.mark.parametrize("make", [llama3, qwen3, mistral, gemma3])
def test_it_works_with_the_tokenizers_of_other_models(make, tmp_path):
    tokenizer = loaded(make(), tmp_path)
    text = "To be, or <s>not</s> to be: 漢字\n\nnaïve"
    view = TokenizerView(tokenizer, text)
    assert [token["id"] for token in view.result["tokens"]] == tokenizer.encode(text)
    assert [token["id"] for token in view.result["start"]] == list(tokenizer.start_ids)
    words = list(tokenizer.encode_words(text))
    for view.word in range(len(words)):
        steps = view.replay["steps"]
        assert view.replay["special"] or tuple(steps[-1]["ids"]) == words[view.word]
        assert not view.replay["special"] or not steps
    data, _ = view._repr_mimebundle_()
    assert data["text/plain"].startswith("TokenizerView: ") and data["image/png"]


def test_a_very_long_word_is_shown_without_its_merges(tokenizer):
    view = TokenizerView(tokenizer, "a" * 200)
    assert view.replay["steps"] == [] and not view.replay["special"]
    assert repr(view).startswith("TokenizerView: ") and "after" not in repr(view)
    view._repr_mimebundle_()


def test_saved_notebook_shows_a_picture_and_a_line_of_text(tokenizer, recwarn):
    view = TokenizerView(tokenizer, "It costs $5 or $6 <b> unbelievably 👍漢\n")
    data, _ = view._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert len(png) < 200_000
    assert imread(BytesIO(png)).shape[1] == 1100
    assert re.match(
        r"TokenizerView: \d+ tokens, 38 characters, 43 bytes, [\d.]+ bytes per token; "
        r"' unbelievably' is \d tokens after \d+ merges$",
        data["text/plain"],
    )
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def view(page) -> Locator:
    """The widget as it was in the beginning: SENTENCE, the fourth word, no merge done."""
    widget = page.locator(".tokenizer-view")
    type_text(widget, SENTENCE)
    expect(widget.get_by_role("status")).to_contain_text("54 bytes")
    token(widget, " unbelie").click()
    expect(widget.get_by_role("heading", name="Merging ·unbelievably")).to_be_visible()
    widget.get_by_role("slider").focus()
    page.keyboard.press("Home")
    expect(widget.locator(".place")).to_have_text("merge 0 of 10")
    page.mouse.move(0, 0)
    return widget


def type_text(view: Locator, text: str) -> None:
    view.get_by_role("textbox").fill(text)


def token(view: Locator, piece: str) -> Locator:
    return view.get_by_role("option", name=re.compile(rf"^{re.escape(chr(34) + piece + chr(34))}, id"))


def test_tokens_tell_their_id_and_position_on_hover_and_on_focus(view, page, tokenizer):
    ids = tokenizer.encode(SENTENCE)
    expect(view.get_by_role("option")).to_have_text([chip(tokenizer.piece(i)) for i in ids])
    expect(view.get_by_role("status")).to_have_text(
        re.compile(rf"{len(ids)} tokens50 characters54 bytes{54 / len(ids):.2g} bytes per token")
    )
    token(view, " tokenizer").hover()
    readout = view.locator(".readout")
    expect(readout).to_have_text(re.compile(rf"·tokenizer\s*id {ids[1]:,}\s*position 1"))
    page.mouse.move(0, 0)
    expect(readout).to_contain_text("Point at a token")
    view.locator("[role=option][tabindex='0']").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(readout).to_have_text(re.compile(rf"·reads\s*id {ids[2]:,}\s*position 2"))
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")  # stays at the edge
    expect(readout).to_contain_text(f"position {len(ids) - 1}")
    expect(view.get_by_role("option").last).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(view.get_by_role("heading", name="Merging 2")).to_be_visible()
    expect(view.locator("[aria-selected=true]")).to_have_text(["2"])


def test_merges_are_replayed_by_buttons_and_keys(view, page, tokenizer):
    steps = tokenizer.merge_steps(" unbelievably")
    rungs = view.locator(".rungs > .chip:visible")
    place, said = view.locator(".place"), view.locator(".said")
    expect(said).to_have_text("Merging begins with the word’s bytes.")
    expect(rungs).to_have_text([chip(piece) for piece in steps[0].pieces])
    view.get_by_role("button", name="Step").click()
    expect(place).to_have_text("merge 1 of 10")
    rank, position = steps[1].rank, steps[1].position
    left, right = steps[0].pieces[position : position + 2]
    expect(said).to_have_text(
        f"{left} + {right} becomes {left + right}: rank {rank:,} of the {len(tokenizer.merges):,} pairs that training "
        "learned, counted from 0."
    )
    expect(rungs).to_have_text([chip(piece) for step in steps[:2] for piece in step.pieces])
    ranks = sorted(rank for rank in steps[1].ranks if rank is not None)
    expect(view.get_by_role("listitem").first).to_have_text(re.compile(rf"^rank {ranks[0]:,}.*merges next$"))
    view.locator(".replay").get_by_role("button", name="Back").click()
    expect(place).to_have_text("merge 0 of 10")
    expect(view.get_by_role("button", name="Back")).to_be_disabled()
    view.get_by_role("slider").focus()
    page.keyboard.press("End")
    expect(place).to_have_text("merge 10 of 10")
    expect(view.get_by_role("button", name="Step")).to_be_disabled()
    expect(view.locator(".note")).to_have_text("No pair of neighbours is known: these 3 are the word’s tokens.")
    expect(view.get_by_role("img")).to_have_accessible_name('Pieces after 10 merges: " unbelie", "v", "ably"')
    screenshot(view, "tokenizer_view_end")
    view.get_by_role("button", name="Back").focus()
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text("merge 9 of 10")
    screenshot(view, "tokenizer_view_light")


def test_a_merged_token_stands_below_its_parts(view, page, tokenizer):
    view.get_by_role("slider").focus()
    page.keyboard.press("End")
    expect(view.locator(".place")).to_have_text("merge 10 of 10")
    boxes = view.locator(".rungs > .chip").evaluate_all(
        "chips => chips.map((chip) => chip.getBoundingClientRect()).map(({ top, left, right }) => [top, left, right])"
    )
    rows = [[box[1:] for box in boxes if box[0] == top] for top in sorted({box[0] for box in boxes})]
    steps = tokenizer.merge_steps(" unbelievably")
    assert [len(row) for row in rows] == [len(step.ids) for step in steps]
    for above, row, step in zip(rows, rows[1:], steps[1:], strict=False):
        left, right = above[step.position], above[step.position + 1]
        assert row[step.position] == pytest.approx([left[0], right[1]], abs=0.1)


def test_play_runs_to_the_end_and_can_be_paused(view, page):
    view.get_by_role("button", name="Play").click()
    expect(view.get_by_role("button", name="Pause")).to_be_visible()
    expect(view.locator(".place")).not_to_have_text("merge 0 of 10")
    view.get_by_role("button", name="Pause").click()
    expect(view.get_by_role("button", name="Play")).to_be_visible()
    view.get_by_role("slider").focus()
    page.keyboard.press("Space")
    expect(view.locator(".place")).to_have_text("merge 10 of 10", timeout=30_000)
    expect(view.get_by_role("button", name="Play")).to_be_visible()


def test_reduced_motion_makes_play_jump(view, page):
    page.emulate_media(reduced_motion="reduce")
    view.get_by_role("button", name="Step").click()
    expect(view.locator(".rungs > .new").first).to_have_css("animation-name", "none")
    view.get_by_role("button", name="Play").click()
    expect(view.locator(".place")).to_have_text("merge 10 of 10")
    expect(view.get_by_role("button", name="Play")).to_be_visible()
    page.emulate_media(reduced_motion="no-preference")


def test_the_text_is_cut_as_it_is_typed_and_the_last_one_wins(view, page, tokenizer):
    box = view.get_by_role("textbox")
    box.press("Control+A")
    box.press_sequentially("Strawberry fields\n\tforever")
    expect(box).to_have_value("Strawberry fields\n\tforever")
    ids = tokenizer.encode("Strawberry fields\n\tforever")
    expect(view.get_by_role("option")).to_have_text([chip(tokenizer.piece(i)) for i in ids])
    expect(box).to_have_value("Strawberry fields\n\tforever")
    expect(box).to_be_focused()


def test_the_chosen_word_stays_while_the_text_is_typed_on(view, page):
    token(view, " reads").click()
    expect(view.get_by_role("heading", name="Merging ·reads")).to_be_visible()
    box = view.get_by_role("textbox")
    box.press("Control+End")
    box.press_sequentially("45, incomprehensibly")
    expect(view.get_by_role("status")).to_contain_text("74 bytes")
    expect(view.get_by_role("heading", name="Merging ·reads")).to_be_visible()
    type_text(view, "one two")  # there is no third word any more
    expect(view.get_by_role("heading", name="Merging ·two")).to_be_visible()


def test_what_goes_wrong_is_said_in_the_widget(view):
    for text, complaint in (("", "The text is empty"), ("a b" * 1000, "tokens and 1000 fit")):
        type_text(view, text)
        expect(view.get_by_role("alert")).to_contain_text(complaint)
    type_text(view, "Again")
    expect(view.get_by_role("alert")).to_be_hidden()
    expect(view.get_by_role("status")).to_contain_text("5 bytes")


def test_special_tokens_and_long_words_are_explained(view):
    type_text(view, "<|im_start|>user " + "aB" * 60)
    token(view, "<|im_start|>").click()
    expect(view.locator(".none")).to_contain_text("special token")
    expect(view.get_by_role("slider")).to_be_hidden()
    view.get_by_role("option").last.click()
    expect(view.locator(".none")).to_contain_text("too long")
    token(view, "user").click()
    expect(view.get_by_role("slider")).to_be_visible()


def test_tokens_are_never_taken_for_markup(view):
    type_text(view, "<img src=x onerror=alert(1)> <script>alert(2)</script>")
    expect(view.get_by_role("status")).to_contain_text("54 bytes")
    view.get_by_role("option").first.click()
    assert view.locator("img, script").count() == 0


def test_a_thousand_tokens_and_other_scripts_fit(view, page):
    type_text(view, "def f(x):\n    return x  # 漢字 नमस्ते 👩‍🚀\n" * 20)
    expect(view.get_by_role("status")).to_contain_text("800 characters")
    view.get_by_role("option", name=re.compile("id .*, position 20$")).click()
    screenshot(view, "tokenizer_view_code")
    assert cut_off(view.locator("section").all()) == []


def test_dark_theme_is_followed(view, page):
    view.get_by_role("slider").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    use_theme(page, "JupyterLab Dark")
    page.mouse.move(0, 0)
    screenshot(view, "tokenizer_view_dark")
    merged = view.locator(".rungs > .merged:visible").first
    dark = merged.evaluate("chip => getComputedStyle(chip).backgroundColor")
    use_theme(page, "JupyterLab Light")
    expect(merged).not_to_have_css("background-color", dark)


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(view, page, width):
    page.set_viewport_size({"width": width, "height": 1500})
    screenshot(view, f"tokenizer_view_{width}")
    parts = [view, *view.locator("section, .steps, .ladder, .side").all()]
    assert cut_off(parts) == []
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_python_reads_back_what_the_learner_chose(open_notebook):
    page = open_notebook([*CELLS, "view.step = 2"])
    expect(page.locator(".tokenizer-view .place")).to_have_text("merge 2 of 10")


def test_a_start_token_and_a_word_taken_whole_are_told(open_notebook, tmp_path):
    tokenizer = loaded(llama3(), tmp_path)
    words = [piece for token in tokenizer.vocab.values() if (piece := tokenizer.piece(token)).isalpha()]
    whole = next(
        word for word in words if (last := tokenizer.merge_steps(word)[-1]).rank is None and last.position == 0
    )
    page = open_notebook(
        [
            "from pathlib import Path\nfrom course_lib.tokenization import load_tokenizer\n"
            "from course_lib.widgets import TokenizerView",
            f"TokenizerView(load_tokenizer(Path({str(tmp_path)!r})), {whole!r})",
        ]
    )
    view = page.locator(".tokenizer-view")
    expect(view.get_by_role("status")).to_contain_text("before the text a model is given <|begin_of_text|>")
    view.get_by_role("slider").focus()
    page.keyboard.press("End")
    expect(view.locator(".said")).to_contain_text(f"The whole word {whole} is in the vocabulary")
    expect(view.locator(".rungs > .merged:visible").last).to_have_text(whole)
    expect(view.locator(".note")).to_have_text("The word is one token.")
    screenshot(view, "tokenizer_view_llama3")


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook")
    view = page.locator(".tokenizer-view")
    type_text(view, "Once upon a time")
    expect(view.get_by_role("status")).to_contain_text("16 bytes")
    token(view, " upon").click()
    expect(view.get_by_role("heading", name="Merging ·upon")).to_be_visible()
    view.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    expect(view.locator(".place")).to_have_text(re.compile("merge 1 of"))
    screenshot(view, "tokenizer_view_notebook_7")
    shut_down_kernel(page)
    type_text(view, "Anyone there?")
    expect(view.get_by_role("alert")).to_contain_text("The kernel is not running")
