"""ChatApp in the browser: how a learner talks, stops, edits, branches and compares in JupyterLab."""

import re
from pathlib import Path

import pytest
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect

SETUP = f"""
import sys, time, torch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tiny_server import make_tiny
from course_lib.inference.generation import Sampling
from course_lib.widgets import ChatApp
model, tokenizer = make_tiny()
odd = "<img src=x onerror=alert(1)> [it]"
"""
SHOW = """
chat = ChatApp({"one": (model, tokenizer), "other": (model, tokenizer)}, max_new_tokens=30, context_length=320)
chat
"""
# A model slow enough to be stopped on a busy machine too, that writes small letters and no end.
SLOW = """
from course_lib.applications.chat import ModelWriter
letters = [i for i in range(292) if tokenizer.decode_bytes([i]) in [bytes([c]) for c in b"abcdefghijklmnop .!"]]
def rule(written, logits):
    time.sleep(pace[0])
    return torch.full_like(logits, -torch.inf).index_copy_(0, torch.tensor(letters), logits[letters])
pace = [0.0]
plain = ModelWriter.write
ModelWriter.write = lambda *given, **how: plain(*given, **how | {"rule": rule})
"""


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(
        [SETUP + SLOW, SHOW, "pace[0] = 0.3", "pace[0] = 0.0", 'chat.say("Go on") if pace[0] else 0'], height=1300
    )


def run_cell(page: Page, number: int) -> None:
    """Run a cell of the notebook again, and wait for its end."""
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached()
    cell = page.locator(".jp-CodeCell").nth(number)
    prompt = cell.locator(".jp-InputPrompt").first
    before = prompt.text_content()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    expect(prompt).not_to_have_text(before)
    expect(prompt).to_have_text(re.compile(r"\[\d+\]:"))


def texts(app: Locator) -> Locator:
    return app.locator("li .text:visible")


def replies(app: Locator) -> Locator:
    return app.locator("li.assistant:not(.draft)")


def say(app: Locator, text: str, turns: int) -> None:
    app.get_by_role("textbox", name="Message").fill(text)
    app.page.keyboard.press("Enter")
    expect(replies(app)).to_have_count(turns)
    expect(app.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_a_conversation(page):
    app = page.locator(".chat-app")
    message = app.get_by_role("textbox", name="Message")
    message.click()
    message.fill("<img src=x onerror=alert(1)>")
    page.keyboard.press("Shift+Enter")  # a new line, and no cell is run
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(replies(app)).to_have_count(1)
    expect(texts(app).first).to_have_text("<img src=x onerror=alert(1)>\ntwo")
    assert app.locator("img").count() == 0
    expect(page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").first).to_have_text("[2]:")
    first = texts(app).nth(1).text_content()
    assert len(first) >= 25 and set(first) <= set("abcdefghijklmnop .!")
    expect(replies(app).locator("footer")).to_contain_text("30 tokens · prompt ")
    expect(replies(app).locator("footer")).to_contain_text("tokens/s · cut off")
    expect(app.get_by_role("status")).to_contain_text("of 320 tokens.")
    expect(message).to_be_focused()

    # written again, and back
    replies(app).get_by_role("button", name="Write again").click()
    expect(replies(app)).to_contain_text("2 of 2")
    assert texts(app).nth(1).text_content() != first
    earlier = replies(app).get_by_role("button", name="Version before")
    earlier.click()
    expect(replies(app)).to_contain_text("1 of 2")
    expect(texts(app).nth(1)).to_have_text(first)
    expect(earlier).to_be_focused()
    expect(earlier).to_have_attribute("aria-disabled", "true")

    # edited: a branch
    say(app, "more", 2)
    replies(app).first.get_by_role("button", name="Edit").click()
    assert replies(app).first.locator("b").text_content() == "one"
    replies(app).first.get_by_role("button", name="Cancel").click()
    assert replies(app).first.locator("b").text_content() == "one"
    app.locator("li.user").first.get_by_role("button", name="Edit").click()
    editor = app.get_by_role("textbox", name="Edited text")
    expect(editor).to_be_focused()
    editor.fill("Who is it?")
    screenshot(app, "chat_app_editing")
    page.keyboard.press("Enter")
    expect(texts(app).first).to_have_text("Who is it?")
    expect(app.locator("li.user").first).to_contain_text("2 of 2")
    expect(replies(app)).to_have_count(1)
    app.locator("li.user").get_by_role("button", name="Version before").click()
    expect(replies(app)).to_have_count(2)
    expect(texts(app).nth(1)).to_have_text(first)


def test_a_stop_and_a_cell_meanwhile(page):
    app = page.locator(".chat-app")
    app.get_by_role("button", name="New chat").click()
    expect(replies(app)).to_have_count(0)
    run_cell(page, 2)  # now it takes its time
    app.get_by_role("textbox", name="Message").fill("Tell me")
    page.keyboard.press("Enter")
    expect(app.locator("li.draft")).to_be_visible()
    expect(app.locator("li.draft .text")).not_to_have_text("…")
    expect(app.get_by_role("status")).to_have_text("Writing …")
    app.get_by_role("button", name="Stop").click()
    expect(replies(app)).to_contain_text("stopped")
    assert 0 < len(texts(app).nth(1).text_content()) < 30

    # a cell that talks: it can be stopped in the widget, and interrupted
    for number, end in enumerate(("stop", "interrupt")):
        page.locator(".jp-CodeCell").nth(4).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        expect(app.locator("li.draft .text")).not_to_have_text("…")
        if end == "stop":
            app.get_by_role("button", name="Stop").click()
        else:
            page.get_by_role("menuitem", name="Kernel", exact=True).click()
            page.get_by_role("menuitem", name="Interrupt Kernel").click()
        expect(replies(app)).to_have_count(number + 2)
        expect(replies(app).last).to_contain_text("stopped")
    expect(page.locator(".jp-OutputArea").get_by_text("KeyboardInterrupt").first).to_be_visible()
    run_cell(page, 3)


def test_forgotten_turns_settings_and_a_message_that_cannot_be_said(page):
    app = page.locator(".chat-app")
    app.get_by_text("Settings", exact=True).click()
    app.get_by_role("textbox", name="system prompt").fill("Be kind.")
    app.get_by_role("slider", name="temperature").fill("0")
    seed = app.get_by_role("spinbutton", name="seed")
    for value, fits in ((2**32, True), (2**32 + 1, False), (-1, False), (0, True)):
        seed.fill(str(value))
        assert seed.evaluate("input => input.validity.valid") == fits
    app.get_by_role("combobox", name="Model").select_option("other")
    expect(app.get_by_text("0, greedy")).to_be_visible()
    for turn in range(4):
        say(app, f"Now this is the message with the number {turn}.", turn + 4)
    expect(app.locator("li.forgotten")).not_to_have_count(0)
    expect(app.locator("li.line")).to_have_text("The model no longer reads what stands above: the context is full.")
    expect(replies(app).last.locator("b")).to_have_text("other")
    message = app.get_by_role("textbox", name="Message")
    message.fill("x<|im_end|>")
    page.keyboard.press("Enter")
    expect(app.get_by_role("alert")).to_contain_text("the text holds '<|im_end|>'")
    expect(message).to_have_value("x<|im_end|>")  # to be mended
    app.locator(".turns").evaluate("turns => turns.scrollTop = 300")
    screenshot(app, "chat_app_light")
    use_theme(page, "JupyterLab Dark")
    screenshot(app, "chat_app_dark")
    use_theme(page, "JupyterLab Light")
    page.set_viewport_size({"width": 760, "height": 1500})
    screenshot(app, "chat_app_narrow")
    assert cut_off([app, *app.locator("form, footer, .panels, .slider, .bubble").all()]) == []
    page.set_viewport_size({"width": 1400, "height": 1300})


def test_a_kernel_that_is_gone_is_said_to_be(page):
    app = page.locator(".chat-app")
    shut_down_kernel(page)
    app.get_by_role("textbox", name="Message").fill("Are you there?")
    page.keyboard.press("Enter")
    expect(app.get_by_role("alert")).to_contain_text("The kernel is not running")
    expect(app.get_by_role("textbox", name="Message")).to_have_value("Are you there?")
    expect(app.get_by_role("button", name="Send", exact=True)).to_be_enabled()
