"""PreferenceLabeller in the browser: how a person judges pairs in JupyterLab and Notebook 7."""

from itertools import pairwise
from pathlib import Path

import pytest
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect
from test_preference_labeller import ODD, PAIRS

from course_lib.alignment.preferences import read_comparisons, self_agreement


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "choices.jsonl"


def cells(path: Path, pairs: list = PAIRS, **settings) -> list[str]:
    given = "".join(f", {name}={value!r}" for name, value in settings.items())
    return [
        "from course_lib.widgets import PreferenceLabeller",
        f"labeller = PreferenceLabeller({pairs!r}, {str(path)!r}{given})\nlabeller",
        "print('the notebook has gone on')",
    ]


def view(page: Page) -> Locator:
    return page.locator(".preference-labeller")


def press(page: Page, key: str, done: int, total: int = 24) -> None:
    """Press a key and wait for what is shown then."""
    page.keyboard.press(key)
    expect(view(page).get_by_role("status")).to_have_text(f"Comparison {done + 1} of {total}")


def test_a_person_judges_by_keyboard_and_the_notebook_hears_none_of_it(open_notebook, path):
    page = open_notebook(cells(path))
    expect(page.get_by_text("the notebook has gone on").last).to_be_visible()
    labeller = view(page)
    prompt = labeller.get_by_role("region", name="Prompt").locator(".text")
    seen = prompt.text_content()
    prompt.click()  # anywhere in the widget: its keys work from there
    press(page, "1", 1)
    expect(prompt).not_to_have_text(seen)
    expect(labeller).to_contain_text("Of the pair before you chose 1.")
    press(page, "2", 2)
    press(page, "s", 3)
    expect(labeller).to_contain_text("Of the pair before you skipped it.")
    assert [said.choice for said in read_comparisons(path)] == [0, 1, None]
    press(page, "u", 2)
    press(page, "u", 1)
    assert [said.choice for said in read_comparisons(path)] == [0]
    assert read_comparisons(path)[0].prompt == seen
    page.keyboard.press("x")  # would cut the notebook's cell
    page.keyboard.press("d")
    page.keyboard.press("d")
    expect(page.locator(".jp-CodeCell")).to_have_count(3)
    expect(page.locator(".jp-MarkdownCell")).to_have_count(0)  # 1 and 2 would make headings
    screenshot(labeller, "preference_labeller_light")
    use_theme(page, "JupyterLab Dark")
    screenshot(labeller, "preference_labeller_dark")


def test_buttons_do_what_keys_do_and_the_end_says_how_far_one_agrees_with_oneself(open_notebook, path):
    page = open_notebook(cells(path, PAIRS[:2], repeats=1.0, seed=1))
    labeller = view(page)
    status = labeller.get_by_role("status")
    undo = labeller.get_by_role("button", name="Take back")
    expect(undo).to_be_disabled()
    for number in range(3):
        expect(status).to_have_text(f"Comparison {number + 1} of 4")
        labeller.get_by_role("button", name="Answer 1 is better").click()
    expect(status).to_have_text("Comparison 4 of 4")
    labeller.get_by_role("button", name="Skip").click()
    expect(labeller.get_by_role("heading", name="All pairs judged")).to_be_visible()
    expect(labeller).to_contain_text("3 choices and 1 skip are kept in")
    page.keyboard.press("u")  # the button that had the focus is gone, the keys are not
    expect(status).to_have_text("Comparison 4 of 4")
    for _ in range(4):
        page.keyboard.press("u")
        page.wait_for_timeout(300)
    expect(status).to_have_text("Comparison 1 of 4")
    expect(undo).to_be_disabled()
    for number in range(4):  # the same text, wherever it stands
        expect(status).to_have_text(f"Comparison {number + 1} of 4")
        first = labeller.get_by_role("region", name="Answer 1").locator(".text").text_content()
        page.keyboard.press("1" if first.startswith("good") else "2")
    expect(labeller).to_contain_text("you chose the same answer in 2: 100 %")
    assert self_agreement(read_comparisons(path)) == (2, 2)
    screenshot(labeller, "preference_labeller_done")


def test_running_the_cell_again_goes_on_and_a_held_key_chooses_once(open_notebook, path):
    page = open_notebook(cells(path))
    view(page).focus()
    page.keyboard.down("1")
    page.keyboard.down("1")  # as a keyboard repeats it
    page.keyboard.down("1")
    page.keyboard.up("1")
    expect(view(page).get_by_role("status")).to_have_text("Comparison 2 of 24")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").first).to_have_text("[4]:")
    expect(view(page).get_by_role("status")).to_have_text("Comparison 2 of 24")
    assert len(read_comparisons(path)) == 1


def test_text_is_never_taken_for_markup_and_a_long_one_scrolls(open_notebook, path):
    page = open_notebook(cells(path, [(ODD, "<img src=x onerror=alert(1)>\n  two lines", "long " * 5000)], repeats=0))
    labeller = view(page)
    assert labeller.locator("img, b, i, code").count() == 0
    texts = labeller.locator(".text").all_text_contents()
    assert texts[0] == ODD and sorted(texts[1:]) == ["<img src=x onerror=alert(1)>\n  two lines", "long " * 5000]
    assert labeller.bounding_box()["height"] < 1000 and not cut_off([labeller, *labeller.locator(".text").all()])
    long = labeller.locator(".text[tabindex='0']").last
    long.focus()
    page.keyboard.press("End")
    expect(labeller.locator(".text")).to_have_count(3)
    page.wait_for_function("text => text.scrollTop > 1000", arg=long.element_handle())
    screenshot(labeller, "preference_labeller_long")


def test_a_choice_that_cannot_be_kept_is_said(open_notebook, tmp_path):
    (tmp_path / "file").write_text("")
    page = open_notebook(cells(tmp_path / "file" / "choices.jsonl"))
    view(page).focus()
    page.keyboard.press("1")
    expect(view(page).get_by_role("alert")).to_contain_text("The choice was not kept: ")
    expect(view(page).get_by_role("status")).to_have_text("Comparison 1 of 24")
    screenshot(view(page), "preference_labeller_error")
    shut_down_kernel(page)
    view(page).focus()
    page.keyboard.press("2")
    expect(view(page).get_by_role("alert")).to_contain_text("The kernel is not running")


def test_in_notebook_7_narrow(open_notebook, path):
    page = open_notebook(cells(path), app="notebook", width=600)
    view(page).locator(".text").first.click()
    for number, key in enumerate("12s"):
        press(page, key, number + 1)
    assert [said.choice for said in read_comparisons(path)] == [0, 1, None]
    tops = [side.bounding_box()["y"] for side in view(page).locator(".sides section").all()]
    assert all(lower > upper for upper, lower in pairwise(tops))
    screenshot(view(page), "preference_labeller_narrow")
