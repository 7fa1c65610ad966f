"""RLHFDashboard in the browser: watched, paused, stopped and scrubbed in JupyterLab and Notebook 7."""

import re
from dataclasses import replace

import pytest
from browser import START_TIMEOUT, check_looks, screenshot, shut_down_kernel
from playwright.sync_api import Locator, Page, expect
from test_rlhf_dashboard import ASKED, CONFIG, TOKENIZER, cells, trainer

from course_lib.widgets import RLHFDashboard

PATIENCE = 60_000  # ms: a machine that is busy with other things


@pytest.fixture(scope="module")
def notebook(open_notebook, tmp_path_factory) -> Page:
    """A notebook whose last cell trains for longer than any test waits."""
    return open_notebook(cells(tmp_path_factory.mktemp("run"), n_steps=900, pace=0.2), wait=False, height=1500)


@pytest.fixture
def page(notebook) -> Page:
    """The notebook while its last cell trains; where a test has ended that by Stop, the cell is run again, and goes on."""
    dashboard = notebook.locator(".rlhf-dashboard")
    if dashboard.and_(notebook.locator("[data-state=stopped]")).count():
        notebook.locator(".jp-Notebook .jp-CodeCell .jp-Editor").last.click()
        notebook.keyboard.press("Control+Enter")
    expect(dashboard.and_(notebook.locator("[data-state=running]"))).to_be_visible(timeout=START_TIMEOUT)
    return notebook


def dashboard_of(page: Page) -> Locator:
    return page.locator(".rlhf-dashboard")


def slider(page: Page, name: str) -> Locator:
    return dashboard_of(page).get_by_role("slider", name=name)


def button(page: Page, name: str) -> Locator:
    return dashboard_of(page).get_by_role("button", name=name)


def test_pause_the_leash_and_going_on_work_while_the_cell_runs(page):
    widget, busy = dashboard_of(page), page.locator(".jp-CodeCell .jp-InputPrompt").last
    expect(widget.get_by_role("img", name=re.compile(r"reward over \d\d+ of 900 steps"))).to_be_visible(
        timeout=PATIENCE
    )
    leash = slider(page, "Leash")
    expect(leash).to_have_attribute("aria-valuetext", "0.05 reward a nat")
    leash.focus()
    page.keyboard.press("ArrowRight")
    expect(leash).to_have_attribute("aria-valuetext", "0.1 reward a nat", timeout=PATIENCE)  # the kernel has taken it
    expect(widget.locator("dd").nth(5)).to_have_text(
        "0.1 reward a nat", timeout=PATIENCE
    )  # and a step was made with it
    button(page, "Pause").click()
    expect(widget.get_by_role("status")).to_contain_text("Training paused, step", timeout=PATIENCE)
    expect(busy).to_have_text("[*]:")
    at = int(widget.get_by_role("progressbar").get_attribute("value"))
    expect(widget.get_by_role("columnheader").last).to_have_text(f"after step {at}")
    expect(widget.get_by_role("rowheader")).to_have_text(ASKED)
    screenshot(widget, "rlhf_dashboard_paused")
    leash.focus()
    page.keyboard.press("Home")
    expect(leash).to_have_attribute("aria-valuetext", "0 reward a nat", timeout=PATIENCE)
    button(page, "Resume").click()
    expect(widget.get_by_role("status")).to_have_text("Training running", timeout=PATIENCE)
    expect(widget.locator("dd").nth(5)).to_have_text("0 reward a nat", timeout=PATIENCE)
    button(page, "Stop").click()
    expect(widget.get_by_role("status")).to_contain_text("Training stopped, step", timeout=PATIENCE)
    expect(busy).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE)
    expect(page.locator(".jp-OutputArea-output[data-mime-type*=stderr]")).to_have_count(0)
    leash.focus()
    page.keyboard.press("End")  # of a run that is stopped the leash can be moved too
    expect(leash).to_have_attribute("aria-valuetext", "5 reward a nat", timeout=PATIENCE)


def test_dark_theme_is_followed_and_nothing_is_cut_off(page):
    widget = dashboard_of(page)
    expect(widget.get_by_role("img", name=re.compile(r"KL over \d\d+ of 900 steps"))).to_be_visible(timeout=PATIENCE)
    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_visible(timeout=PATIENCE)
    check_looks(page, widget, "rlhf_dashboard", "section, header, .numbers > div, .slider, td, th")
    button(page, "Stop").click()
    expect(widget.get_by_role("status")).to_contain_text("Training stopped", timeout=PATIENCE)


def test_a_replay_is_scrubbed_without_a_kernel(open_notebook, tmp_path):
    RLHFDashboard(trainer(tmp_path, config=replace(CONFIG, n_steps=30)), TOKENIZER, ASKED).run()
    show = f"from course_lib.widgets import RLHFDashboard\nRLHFDashboard.replay({str(tmp_path)!r})"
    page = open_notebook([show], app="notebook", reduced_motion="reduce")
    widget, step = dashboard_of(page), slider(page, "Step looked at")
    expect(step).to_have_attribute("aria-valuetext", "30")
    expect(button(page, "Pause")).to_have_count(0)
    expect(slider(page, "Leash")).to_have_count(0)
    reward = widget.locator("dd").first.text_content()
    screenshot(widget, "rlhf_dashboard_replay")
    shut_down_kernel(page)
    expect(widget.get_by_role("columnheader").last).to_have_text("after step 30")
    step.focus()
    page.keyboard.press("Home")
    expect(step).to_have_attribute("aria-valuetext", "1")
    expect(widget.locator("dd").first).not_to_have_text(reward)
    expect(widget.get_by_role("columnheader").last).to_have_text("after step 0")
    expect(widget.get_by_role("cell", name="the same")).to_have_count(2)
    plot = widget.get_by_role("img", name="KL over 30 of 30 steps").bounding_box()
    page.mouse.click(plot["x"] + plot["width"] / 2, plot["y"] + 50)
    expect(step).to_have_attribute("aria-valuetext", re.compile(r"^1[2-5]$"))
    expect(widget.get_by_role("columnheader").last).to_have_text("after step 10")


def test_a_reward_that_fails_is_an_alert_and_the_cell_run_again_goes_on(open_notebook, tmp_path):
    page = open_notebook(cells(tmp_path, n_steps=6, pace=0, fails_at=3))
    widget = dashboard_of(page)
    expect(widget.get_by_role("alert").last).to_contain_text("Step 3 was not made. KeyError: 'no such word'.")
    expect(widget.get_by_role("status")).to_have_text("Training stopped, step 2 of 6")
    screenshot(widget, "rlhf_dashboard_failed")
    page.locator(".jp-Notebook .jp-CodeCell .jp-Editor").last.click()
    page.keyboard.press("Control+Enter")
    expect(widget.get_by_role("status")).to_have_text("Training finished, step 6 of 6", timeout=PATIENCE)


def test_the_buttons_go_with_the_kernel(page):
    expect(slider(page, "Step looked at")).to_be_enabled(timeout=PATIENCE)  # a step was made
    shut_down_kernel(page)
    expect(button(page, "Pause")).to_be_disabled(timeout=PATIENCE)
    expect(slider(page, "Leash")).to_be_disabled()
    expect(slider(page, "Step looked at")).to_be_enabled()
