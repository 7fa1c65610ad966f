"""TrainingDashboard: the same training with and without it, orders in the middle of a run, and the browser's buttons."""

import base64
import json
import math
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import START_TIMEOUT, check_looks, screenshot, shut_down_kernel
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, Page, expect
from small_corpus import write_small_corpus
from torch.utils._pytree import tree_leaves

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tokenization import Tokenizer, train_bpe
from course_lib.widgets import TrainingDashboard
from course_lib.widgets.shared.curves import CURVES, curve_blocks, divergence
from course_lib.widgets.training_dashboard.picture import training_picture

PATIENCE = 60_000  # ms: a machine that is busy with other things
CONFIG = PretrainingConfig(n_steps=12, batch_size=8, evaluate_every=4, warmup=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return write_small_corpus(folder / "train"), write_small_corpus(folder / "held out", n_texts=4, seed=1)


def small_model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(TransformerConfig(266, 16, 2, 2, 32, 32))


def trainer(shards, config: PretrainingConfig = CONFIG) -> Trainer:
    return Trainer(small_model(), *shards, config)


def letters() -> Tokenizer:
    return train_bpe(["Tom sees the cat."], 260)


# ---------------------------------------------------------------- in Python


def test_training_is_the_same_with_and_without_it(shards):
    alone, watched = trainer(shards), trainer(shards)
    for _ in alone:
        pass
    dashboard = TrainingDashboard(watched, letters(), "Tom")
    dashboard.run()
    assert [r.loss for r in watched.history] == [r.loss for r in alone.history]
    assert [r.validation_loss for r in watched.history] == [r.validation_loss for r in alone.history]
    same = zip(tree_leaves(dict(watched.model.state_dict())), tree_leaves(dict(alone.model.state_dict())), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert watched.model.training
    assert dashboard.state == "done"


def test_it_tells_what_the_trainer_reports(shards):
    watched = trainer(shards)
    dashboard = TrainingDashboard(watched, letters(), "Tom")
    dashboard.run()
    curves = dict(zip(CURVES, np.frombuffer(dashboard.curves, np.float32).reshape(len(CURVES), -1), strict=True))
    assert curves["step"].tolist() == list(range(1, 13))
    np.testing.assert_allclose(curves["loss"], [report.loss for report in watched.history], rtol=1e-6)
    np.testing.assert_allclose(curves["learning_rate"], [r.learning_rate for r in watched.history], rtol=1e-6)
    assert np.flatnonzero(~np.isnan(curves["validation_loss"])).tolist() == [3, 7, 11]
    shown = dashboard.progress
    assert (shown["step"], shown["n_steps"], shown["tokens"]) == (12, 12, 12 * 8 * 32)
    assert shown["validation_loss"] == watched.history[-1].validation_loss
    assert shown["loss"] == pytest.approx(np.mean([report.loss for report in watched.history]))
    assert shown["left"] == 0
    spent = sum(1 / report.tokens_per_second for report in watched.history)
    assert shown["tokens_per_second"] == pytest.approx(12 / spent)  # tokens / seconds, not a mean of rates


def test_samples_come_from_the_prompt_before_and_after_and_change_as_the_model_does(shards):
    dashboard = TrainingDashboard(trainer(shards), letters(), "Tom")
    dashboard.run()
    first, last = dashboard.samples[0], dashboard.samples[-1]
    assert (first["step"], last["step"]) == (0, 12)
    assert first["text"] != last["text"]
    untrained = TrainingDashboard(trainer(shards), letters(), "Tom")
    untrained._write_sample()
    assert untrained.samples[0] == first
    silent = TrainingDashboard(trainer(shards))
    silent.run()
    assert silent.samples == [] and silent.progress["prompt"] is None


class Told:
    """A trainer that calls `between(step)` after each step."""

    def __init__(self, trainer, between):
        self.trainer, self.between = trainer, between
        self.model, self.config, self.history = trainer.model, trainer.config, trainer.history

    def __iter__(self):
        for report in self.trainer:
            self.between(report.step)
            yield report


def test_stop_ends_the_run_after_the_step_and_run_goes_on(shards):
    ordered, watched = [], trainer(shards)
    dashboard = None

    def between(step):
        if step == 5 and not ordered:
            ordered.append(step)
            dashboard._hear(None, {"order": "stop"}, [])

    dashboard = TrainingDashboard(Told(watched, between))
    dashboard.run()
    assert (dashboard.state, watched.step, dashboard.progress["step"]) == ("stopped", 5, 5)
    dashboard.run()
    assert (dashboard.state, watched.step) == ("done", 12)
    alone = trainer(shards)
    assert [r.loss for r in watched.history] == [r.loss for r in alone]


def test_pause_waits_until_it_is_told_to_go_on(shards):
    watched, states = trainer(shards), []
    dashboard = None

    def between(step):
        if step == 5:
            dashboard._hear(None, {"order": "pause"}, [])

    def follow(change):
        states.append((change["new"], watched.step))
        if change["new"] == "paused":
            threading.Timer(0.3, dashboard._hear, (None, {"order": "run"}, [])).start()

    dashboard = TrainingDashboard(Told(watched, between))
    dashboard.observe(follow, "state")
    dashboard.run()
    assert states == [("running", 0), ("paused", 5), ("running", 5), ("done", 12)]


def test_an_interrupt_ends_the_cell_and_leaves_a_trainer_that_goes_on(shards):
    watched, alone = trainer(shards), trainer(shards)

    def between(step):
        if step == 7:
            raise KeyboardInterrupt

    dashboard = TrainingDashboard(Told(watched, between))
    with pytest.raises(KeyboardInterrupt):
        dashboard.run()
    assert (dashboard.state, dashboard.progress["step"]) == ("stopped", 7)
    assert [r.loss for r in [*watched.history, *watched]] == [r.loss for r in alone]


def test_a_loss_that_is_no_number_can_be_told(shards):
    watched = trainer(shards)
    for _ in watched:
        pass
    watched.history[-1] = replace(watched.history[-1], loss=float("nan"), validation_loss=float("inf"))
    dashboard = TrainingDashboard(watched)
    dashboard.run()
    assert dashboard.progress["loss"] is None and dashboard.progress["validation_loss"] is None


def test_a_run_that_diverges_says_so_wherever_it_is_shown_and_goes_on(shards):
    config = replace(CONFIG, learning_rate=1e30, muon_learning_rate=1e30, warmup=0)
    watched = trainer(shards, config)
    dashboard = TrainingDashboard(watched, letters(), "Tom")
    dashboard.run()
    losses = [report.loss for report in watched.history]
    lost = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
    assert dashboard.state == "done" and len(losses) == 12
    said = f"In step {lost + 1} the loss ceased to be a number (NaN or infinite). The usual cause is a learning rate"
    assert said in dashboard.progress["trouble"] and said in repr(dashboard)
    assert dashboard.samples[-1] == {"step": 12, "text": " [the model's logits are no numbers]"}
    json.dumps([dashboard.progress, dashboard.samples], allow_nan=False)
    healthy = training_picture(dict(zip(CURVES, curve_blocks(dashboard._columns), strict=True)), 12, None)
    assert base64.b64decode(dashboard._repr_mimebundle_()[0]["image/png"]) != healthy  # which says nothing of it
    sound = TrainingDashboard(trainer(shards), letters(), "Tom")
    sound.run()
    assert sound.progress["trouble"] == "" and repr(sound) == "TrainingDashboard: 12 steps"


@pytest.mark.parametrize(
    "losses", [[math.nan] * 3, [1.0, math.inf, math.nan], [3e38, 1e30, math.nan], [1e300, 1.0, 2.0]]
)
@pytest.mark.filterwarnings("error")
def test_curves_that_leave_all_bounds_can_be_drawn(losses):
    columns = {"loss": losses, "validation_loss": losses[::-1], "learning_rate": [1e300, 1e30, 1.0]}
    picture = training_picture(dict(zip(CURVES, curve_blocks(columns), strict=True)), 3, None, divergence(losses))
    assert picture.startswith(b"\x89PNG")


def test_curves_stay_small_however_long_the_run_and_keep_means_and_extremes():
    n = 100_000
    loss = np.random.default_rng(0).random(n)
    validation = np.where(np.arange(1, n + 1) % 1000 == 0, 2.5, np.nan)
    blocks = dict(
        zip(CURVES, curve_blocks({"loss": loss, "validation_loss": validation, "learning_rate": loss}), strict=True)
    )
    assert 256 < len(blocks["step"]) <= 512
    assert blocks["step"][-1] == n
    lengths = np.diff(blocks["step"], prepend=0)
    assert set(lengths[:-1]) == {256} and lengths[-1] <= 256
    assert (blocks["loss"] * lengths).sum() == pytest.approx(loss.sum(), rel=1e-5)
    assert blocks["lowest"].min() == np.float32(loss.min()) and blocks["highest"].max() == np.float32(loss.max())
    assert np.nansum(blocks["validation_loss"] == 2.5) == 100
    assert curve_blocks({"loss": [], "validation_loss": [], "learning_rate": []}).shape == (len(CURVES), 0)


def test_without_a_browser_it_trains_to_the_end_and_leaves_a_picture(tmp_path):
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells(tmp_path, n_steps=6, pace=0)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (shown,) = notebook.cells[-1].outputs
    assert shown.data["text/plain"] == "TrainingDashboard: 6 steps"
    assert 10_000 < len(shown.data["image/png"]) < 200_000


# ---------------------------------------------------------------- in the browser


def cells(folder, n_steps: int, pace: float, learning_rate: float = 3e-3) -> list[str]:
    """Three cells: a small run of steps that take `pace` seconds each at least, and the dashboard that runs it."""
    return [
        f"""
import sys, time, torch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from small_corpus import write_small_corpus
from pathlib import Path
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tokenization import train_bpe
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.widgets import TrainingDashboard

class Slow(Trainer):
    def _make_step(self):
        time.sleep({pace})
        super()._make_step()

folder = Path({str(folder)!r})
shards = write_small_corpus(folder / "train"), write_small_corpus(folder / "held out", n_texts=4, seed=1)
torch.manual_seed(0)
model = TransformerLM(TransformerConfig(266, 16, 2, 2, 32, 32))
config = PretrainingConfig(n_steps={n_steps}, batch_size=8, evaluate_every=20, warmup=4, learning_rate={learning_rate})
letters = train_bpe(["Tom sees the cat."], 260)
trainer = Slow(model, *shards, config)""",
        "dashboard = TrainingDashboard(trainer, letters, 'Tom')\ndashboard.run()",
    ]


@pytest.fixture(scope="module")
def notebook(open_notebook, tmp_path_factory) -> Page:
    """A notebook whose last cell trains for longer than any test waits."""
    return open_notebook(cells(tmp_path_factory.mktemp("run"), n_steps=100_000, pace=0.02), wait=False)


@pytest.fixture
def page(notebook) -> Page:
    """The notebook while its last cell trains; where a test has ended that by Stop, the cell is run again, and goes on."""
    dashboard = notebook.locator(".training-dashboard")
    if dashboard.and_(notebook.locator("[data-state=stopped]")).count():
        notebook.locator(".jp-Notebook .jp-CodeCell .jp-Editor").last.click()
        notebook.keyboard.press("Control+Enter")
    expect(dashboard.and_(notebook.locator("[data-state=running]"))).to_be_visible(timeout=START_TIMEOUT)
    return notebook


def button(page: Page, name: str) -> Locator:
    return page.locator(".training-dashboard").get_by_role("button", name=name)


def test_pause_resume_and_stop_work_while_the_cell_runs(page):
    widget = page.locator(".training-dashboard")
    busy = page.locator(".jp-CodeCell .jp-InputPrompt").last
    expect(busy).to_have_text("[*]:")
    expect(widget.get_by_role("img", name=re.compile(r"Loss over \d\d+ of 100000 steps"))).to_be_visible(
        timeout=PATIENCE
    )
    screenshot(widget, "training_dashboard_running")
    button(page, "Pause").click()
    expect(widget.get_by_role("status")).to_contain_text("Training paused, step", timeout=PATIENCE)
    expect(busy).to_have_text("[*]:")
    at = widget.get_by_role("progressbar").get_attribute("value")
    button(page, "Resume").click()
    expect(widget.get_by_role("status")).to_have_text("Training running", timeout=PATIENCE)
    expect(widget.get_by_role("progressbar")).not_to_have_attribute("value", at, timeout=PATIENCE)
    button(page, "Stop").focus()
    page.keyboard.press("Enter")
    expect(widget.get_by_role("status")).to_contain_text("Training stopped, step", timeout=PATIENCE)
    expect(busy).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE)  # the cell has ended, and without an error
    expect(page.locator(".jp-OutputArea-output[data-mime-type*=stderr]")).to_have_count(0)
    expect(button(page, "Stop")).to_be_disabled()


def test_dark_theme_is_followed_and_nothing_is_cut_off(page):
    widget = page.locator(".training-dashboard")
    expect(widget.get_by_role("img", name=re.compile(r"Loss over \d\d+ of 100000 steps"))).to_be_visible(
        timeout=PATIENCE
    )
    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_visible(timeout=PATIENCE)
    check_looks(page, widget, "training_dashboard", "section, header, .numbers > div, li")
    button(page, "Stop").click()
    expect(widget.get_by_role("status")).to_contain_text("Training stopped", timeout=PATIENCE)


def test_notebook_7_shows_a_run_to_its_end(open_notebook, tmp_path):
    page = open_notebook(cells(tmp_path, n_steps=60, pace=0), app="notebook", reduced_motion="reduce")
    widget = page.locator(".training-dashboard")
    expect(widget.get_by_role("status")).to_have_text("Training finished, step 60 of 60", timeout=PATIENCE)
    expect(
        widget.get_by_role("img", name=re.compile("Loss over 60 of 60 steps: training .*, validation"))
    ).to_be_visible()
    expect(widget.get_by_role("list", name="What the model writes").get_by_role("listitem").first).to_contain_text(
        "step 60"
    )
    expect(button(page, "Pause")).to_be_disabled()
    screenshot(widget, "training_dashboard_notebook_7")


def test_a_run_that_diverges_is_an_alert(open_notebook, tmp_path):
    page = open_notebook(cells(tmp_path, n_steps=6, pace=0, learning_rate=1e30))
    widget = page.locator(".training-dashboard")
    expect(widget.get_by_role("status")).to_have_text("Training finished, step 6 of 6", timeout=PATIENCE)
    expect(widget.get_by_role("alert").last).to_contain_text(re.compile(r"In step \d the loss ceased to be a number"))
    samples = widget.get_by_role("list", name="What the model writes").get_by_role("listitem")
    expect(samples.first).to_contain_text("Tom [the model's logits are no numbers]")
    screenshot(widget, "training_dashboard_diverged")


def test_the_buttons_go_with_the_kernel(page):
    shut_down_kernel(page)
    expect(button(page, "Pause")).to_be_disabled(timeout=PATIENCE)
    expect(button(page, "Stop")).to_be_disabled()
