"""CheckpointScrubber: what it shows against each checkpoint's own model, and what a learner does with it in a browser."""

import base64
import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect
from small_corpus import write_small_corpus
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenShards
from course_lib.inference.interpret import capture_attention, induction_scores
from course_lib.plots import chip
from course_lib.pretraining import PretrainingConfig, Trainer, list_checkpoints, load_model, read_history
from course_lib.tokenization import Tokenizer, save_tokenizer, train_bpe
from course_lib.widgets import CheckpointScrubber

PATIENCE = 60_000  # ms: a machine that is busy with other things
TEXT = "Tom sees the cat."
STEPS = [0, 5, 10, 15, 18]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Tokenizer]:
    """A folder with the checkpoints of a small run at STEPS, and a tokenizer."""
    folder = tmp_path_factory.mktemp("run")
    shards = write_small_corpus(folder / "train"), write_small_corpus(folder / "held out", n_texts=4, seed=1)
    torch.manual_seed(0)
    model = TransformerLM(TransformerConfig(266, 16, 2, 4, 32, 64))
    config = PretrainingConfig(n_steps=18, batch_size=8, evaluate_every=6, checkpoint_every=5)
    for _ in Trainer(model, *shards, config, folder / "run"):
        pass
    tokenizer = train_bpe([TEXT], 260)
    save_tokenizer(tokenizer, folder / "tokenizer")
    return folder, tokenizer


@pytest.fixture
def scrubber(run) -> CheckpointScrubber:
    folder, tokenizer = run
    return CheckpointScrubber(list_checkpoints(folder / "run"), tokenizer, TEXT, "Tom")


# ---------------------------------------------------------------- in Python


def test_every_checkpoint_shows_its_own_model(run, scrubber):
    folder, tokenizer = run
    ids = torch.tensor(tokenizer.encode(TEXT))
    assert scrubber.steps == STEPS and scrubber.at == 4
    for at, path in enumerate(list_checkpoints(folder / "run")):
        scrubber.at = at
        model = load_model(path)
        with torch.inference_mode():
            wanted = F.cross_entropy(model(ids[None])[0, :-1], ids[1:], reduction="none")
        np.testing.assert_allclose(scrubber.losses, wanted, rtol=1e-4)
        assert [token["id"] for token in scrubber.result["tokens"]] == ids.tolist()
        maps = np.frombuffer(scrubber.result["thumbnails"], np.uint8).reshape(2, 4, len(ids), len(ids))
        assert np.abs(maps.astype(int) - capture_attention(model, ids).maps.numpy()).max() <= 1  # of 255: rounding
        np.testing.assert_allclose(scrubber.induction[at], induction_scores(model), atol=1e-6)


def test_samples_differ_with_the_model_and_with_nothing_else(run, scrubber):
    folder, tokenizer = run
    last = scrubber.result["sample"]
    scrubber.at = 0
    assert scrubber.result["sample"] != last
    scrubber.text = "the sea"
    scrubber.at = 4
    assert scrubber.result["sample"] == last
    again = CheckpointScrubber(list_checkpoints(folder / "run"), tokenizer, TEXT, "Tom")
    assert again.result["sample"] == last


def test_the_loss_curve_is_the_runs_own(run, scrubber):
    folder, _ = run
    curves = np.frombuffer(scrubber.curves, np.float32).reshape(6, -1)
    history = read_history(list_checkpoints(folder / "run")[-1])
    np.testing.assert_allclose(curves[1], [asdict(report)["loss"] for report in history], rtol=1e-6)
    assert np.flatnonzero(~np.isnan(curves[4])).tolist() == [5, 11, 17]


def test_it_begins_with_the_strongest_induction_head(scrubber):
    assert scrubber.induction[-1, scrubber.layer, scrubber.head] == scrubber.induction[-1].max()


def test_what_does_not_fit_is_named_and_changes_nothing(run, scrubber):
    _, tokenizer = run
    before = scrubber.result
    with pytest.raises(ValueError, match="no checkpoints: give the Trainer a folder"):
        CheckpointScrubber([], tokenizer, TEXT)
    with pytest.raises(ValueError, match="at must be 0 … 4 here, not 5"):
        scrubber.at = 5
    with pytest.raises(ValueError, match="layer must be 0 … 1 here, not 2"):
        scrubber.layer = 2
    with pytest.raises(ValueError, match="64 fit: shorten it by"):
        scrubber.text = TEXT * 10
    with pytest.raises(ValueError, match="empty"):
        scrubber.text = ""
    assert scrubber.result == before and scrubber.text == TEXT


def test_saved_notebook_shows_a_picture_and_a_line_of_text_the_same_on_any_machine(run, scrubber):
    n_tokens = len(run[1].encode(TEXT))
    assert repr(scrubber) == f"CheckpointScrubber: 5 checkpoints, steps 0 to 18, {n_tokens} tokens"
    data, _ = scrubber._repr_mimebundle_()
    assert data["text/plain"] == repr(scrubber)
    assert 10_000 < len(base64.b64decode(data["image/png"])) < 200_000


def test_a_run_that_diverged_can_be_looked_at_and_says_so(run, tmp_path):
    folder, tokenizer = run
    model = TransformerLM(TransformerConfig(266, 16, 2, 4, 32, 64))
    config = PretrainingConfig(n_steps=4, batch_size=8, learning_rate=1e30, muon_learning_rate=1e30, checkpoint_every=1)
    for _ in Trainer(model, TokenShards(folder / "train"), None, config, tmp_path):
        pass
    scrubber = CheckpointScrubber(list_checkpoints(tmp_path), tokenizer, TEXT, "Tom")
    lost = next(report.step for report in read_history(list_checkpoints(tmp_path)[-1]) if not isfinite(report.loss))
    assert f"In step {lost} the loss ceased to be a number" in scrubber.trouble
    assert repr(scrubber).endswith(scrubber.trouble)
    assert scrubber.result["sample"] == " [the model's logits are no numbers]"
    assert np.isnan(scrubber.losses).all() and np.isfinite(scrubber.induction).all()
    json.dumps(scrubber.result | {"thumbnails": ""}, allow_nan=False)
    assert 10_000 < len(base64.b64decode(scrubber._repr_mimebundle_()[0]["image/png"])) < 200_000
    scrubber.at = 0
    assert np.isfinite(scrubber.losses).all() and "no numbers" not in scrubber.result["sample"]


def test_a_head_that_attends_to_what_came_after_scores_one_and_a_uniform_one_little(monkeypatch):
    n = 10
    model = TransformerLM(TransformerConfig(50, 8, 1, 2, 16, 2 * n))
    maps = torch.zeros(1, 2, 2 * n, 2 * n, dtype=torch.uint8)
    for i in range(n):
        maps[0, 0, n + i, i + 1] = 255
    uniform = 255 / torch.arange(1, 2 * n + 1)[:, None].expand(-1, 2 * n)
    maps[0, 1] = uniform.tril().round().to(torch.uint8)
    monkeypatch.setattr(
        "course_lib.inference.interpret.capture_attention", lambda _, ids: type("Capture", (), {"maps": maps})
    )
    scores = induction_scores(model)
    assert scores[0, 0] == 1
    assert scores[0, 1] == pytest.approx(np.mean([1 / (n + i + 1) for i in range(n)]), abs=1 / 255)


def test_the_known_induction_head_of_a_real_model_is_found(smollm2):
    scores = induction_scores(smollm2[0])
    assert divmod(int(scores.argmax()), 9) == (18, 6)  # as in lesson 01, whose tokens were other ones
    assert scores.max() > 0.7


# ---------------------------------------------------------------- in the browser


def cells(folder: Path) -> list[str]:
    return [
        f"""
from pathlib import Path
from course_lib.pretraining import list_checkpoints
from course_lib.tokenization import load_tokenizer
from course_lib.widgets import CheckpointScrubber
folder = Path({str(folder)!r})
scrubber = CheckpointScrubber(list_checkpoints(folder / "run"), load_tokenizer(folder / "tokenizer"), {TEXT!r}, "Tom")
scrubber""",
    ]


@pytest.fixture(scope="module")
def page(open_notebook, run) -> Page:
    return open_notebook(cells(run[0]), height=1500)


@pytest.fixture
def widget(page) -> Locator:
    """The widget with TEXT, at the last checkpoint, layer 1, head 3."""
    widget = page.locator(".checkpoint-scrubber")
    box = widget.get_by_role("textbox", name="Text for the models")
    box.fill(TEXT)
    box.press("Enter")
    slider(widget).fill("18")
    written(widget, 18)
    widget.get_by_role("gridcell", name="layer 1, head 3").click()
    return widget


def slider(widget: Locator) -> Locator:
    return widget.get_by_role("slider", name="Step of training")


def written(widget: Locator, step: int) -> None:
    """Wait until the model after `step` is the one shown."""
    expect(widget.get_by_role("heading", name=f"Written after step {step}", exact=True)).to_be_visible(timeout=PATIENCE)


def losses(widget: Locator) -> Locator:
    return widget.get_by_role("list", name="Loss of each token, in nats").locator(".loss")


def test_moving_along_the_steps_shows_another_model(widget, scrubber):
    shown = ["–", *(f"{loss:.1f}" for loss in scrubber.losses)]
    expect(losses(widget)).to_have_text(shown, timeout=PATIENCE)
    expect(widget.locator(".sample-text")).to_have_text("Tom" + scrubber.result["sample"], use_inner_text=False)
    screenshot(widget, "checkpoint_scrubber_light")
    slider(widget).fill("1")  # nearer to 0 than to 5
    written(widget, 0)
    scrubber.at = 0
    expect(losses(widget)).to_have_text(["–", *(f"{loss:.1f}" for loss in scrubber.losses)])
    expect(slider(widget)).to_have_value("0")
    expect(widget.locator(".sample.training").last).to_have_text(
        f"induction score of layer 1, head 3: {scrubber.induction[0, 1, 3]:.2f}"
    )


def test_the_slider_goes_from_checkpoint_to_checkpoint_by_keyboard_and_says_which(widget, page):
    slider(widget).focus()
    page.keyboard.press("Home")
    written(widget, 0)
    expect(slider(widget)).to_have_attribute("aria-valuetext", "step 0, checkpoint 1 of 5")
    page.keyboard.press("ArrowRight")
    written(widget, 5)
    expect(slider(widget)).to_have_attribute("aria-valuetext", "step 5, checkpoint 2 of 5")
    page.keyboard.press("End")
    written(widget, 18)
    page.keyboard.press("ArrowLeft")
    written(widget, 15)


def test_a_click_on_the_curves_goes_to_the_nearest_checkpoint(widget):
    canvas = widget.get_by_role("img", name="Loss over 18 steps")
    width = canvas.evaluate("canvas => canvas.clientWidth")
    canvas.click(position={"x": 78 + (width - 96) * 9 / 18, "y": 60})
    written(widget, 10)


def test_it_plays_to_the_end_and_can_be_paused(widget):
    play = widget.get_by_role("button", name="Play")
    play.evaluate("button => { button.click(); button.click(); }")  # before the clock can tick: "Play", then "Pause"
    expect(play).to_be_visible()
    slider(widget).fill("5")
    written(widget, 5)
    play.click()
    written(widget, 18)
    expect(play).to_be_visible(timeout=PATIENCE)


def test_a_head_is_chosen_by_keyboard_and_drawn_at_every_checkpoint(widget, page):
    cell = widget.get_by_role("gridcell", name="layer 1, head 3")
    cell.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(widget.get_by_role("heading", name="Layer 0, head 2")).to_be_visible()
    page.keyboard.press("Space")  # switches nothing off here
    expect(widget.get_by_role("switch")).to_have_count(0)
    expect(widget.get_by_role("img", name="Induction score of layer 0, head 2 at step 18")).to_be_visible()
    canvas = widget.get_by_role("application")
    late = canvas.evaluate("canvas => canvas.toDataURL()")
    slider(widget).fill("0")
    written(widget, 0)
    page.wait_for_function(
        "late => document.querySelector('.checkpoint-scrubber .stage canvas').toDataURL() !== late", arg=late
    )


def test_another_text_is_read_by_the_same_model_and_a_bad_one_is_refused(widget, run):
    _, tokenizer = run
    box = widget.get_by_role("textbox", name="Text for the models")
    chips = [chip(tokenizer.piece(index)) for index in tokenizer.encode("a cat")]
    box.fill("a cat")
    box.press("Enter")
    expect(widget.locator(".next .chip")).to_have_text(chips, timeout=PATIENCE)
    box.fill("cat " * 40)
    box.press("Enter")
    expect(widget.get_by_role("alert")).to_contain_text("64 fit: shorten it by", timeout=PATIENCE)


def test_dark_theme_is_followed_while_the_widget_is_open(widget, page):
    light = widget.get_by_role("img", name="Loss over").evaluate("canvas => canvas.toDataURL()")
    use_theme(page, "JupyterLab Dark")
    page.wait_for_function(
        "light => document.querySelector('.checkpoint-scrubber .time canvas').toDataURL() !== light", arg=light
    )
    screenshot(widget, "checkpoint_scrubber_dark")
    use_theme(page, "JupyterLab Light")


@pytest.mark.parametrize("width", [860, 1110, 1560])
def test_nothing_is_cut_off_at_any_width(widget, page, width):
    page.set_viewport_size({"width": width, "height": 2000})
    screenshot(widget, f"checkpoint_scrubber_{width}")
    assert cut_off([widget, *widget.locator("section, .at, .key-to, .track, .next li").all()]) == []
    page.set_viewport_size({"width": 1400, "height": 1500})


def test_notebook_7_steps_where_nothing_shall_move_and_says_that_the_kernel_is_gone(open_notebook, run):
    page = open_notebook(cells(run[0]), app="notebook", reduced_motion="reduce")
    widget = page.locator(".checkpoint-scrubber")
    step = widget.get_by_role("button", name="Step ▶")
    step.focus()
    page.keyboard.press("Enter")
    written(widget, 0)
    page.keyboard.press("Enter")
    written(widget, 5)
    shut_down_kernel(page)
    step.click()
    expect(widget.get_by_role("alert")).to_contain_text("The kernel is not running", timeout=PATIENCE)
