"""Predict and ExerciseCheck: what Python says of them, and how a learner uses them in a real JupyterLab."""

import re

import pytest
from browser import screenshot, use_theme
from playwright.sync_api import Locator, Page, expect
from traitlets import TraitError

from course_lib.exercises import find
from course_lib.widgets import Predict

# ---------------------------------------------------------------- in Python


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    """Each test is a kernel of its own: no prediction of another test is remembered."""
    monkeypatch.setattr(Predict, "_latest", {})


def weights_question() -> Predict:
    return Predict("Which key gets the largest weight?", choices=["The", "cat", "sat"])


def bytes_question() -> Predict:
    return Predict("How much memory do the scores take?", number=True, unit="MiB")


def test_question_and_choices_are_readable_without_a_kernel():
    assert repr(weights_question()) == "Predict: Which key gets the largest weight?\n  ( ) The\n  ( ) cat\n  ( ) sat"
    assert repr(bytes_question()) == "Predict: How much memory do the scores take?"


def test_prediction_is_shown_beside_what_happened():
    question = weights_question()
    question.prediction = "cat"
    shown = question.reveal("The", because="It is the sink.")
    assert repr(shown) == "You said: cat. It is: The. It is the sink."
    assert shown.verdict == "other"


def test_run_without_a_person_is_skipped():
    assert repr(weights_question().reveal("The")) == "Skipped. It is: The."
    assert repr(bytes_question().reveal(1024, because="4 bytes each.")) == "Skipped. It is: 1,024 MiB. 4 bytes each."


@pytest.mark.parametrize(
    ("prediction", "verdict"), [(12, "right"), (12.001, "right"), (13, "close"), (14, "close"), (9.9, "other")]
)
def test_number_is_right_close_or_other(prediction, verdict):
    question = bytes_question()
    question.prediction = prediction
    question.reveal(12, tolerance=2)
    assert question.verdict == verdict


def test_numbers_are_shown_short():
    question = bytes_question()
    question.prediction = 1_234_567
    assert repr(question.reveal(0.123456)) == "You said: 1,234,567 MiB. It is: 0.123 MiB."


@pytest.mark.parametrize(
    ("number", "shown"), [(999.6, "1,000"), (999.4, "999"), (-999.6, "-1,000"), (99.96, "100"), (9.996, "10")]
)
def test_a_number_that_rounds_to_the_next_power_of_ten_is_written_in_full(number, shown):
    assert repr(bytes_question().reveal(number)) == f"Skipped. It is: {shown} MiB."


def test_prediction_can_change_until_the_answer_is_revealed():
    question = weights_question()
    question.prediction = "cat"
    question.prediction = "sat"
    question.reveal("sat")
    assert question.verdict == "right"
    with pytest.raises(TraitError, match="can no longer be changed"):
        question.prediction = "The"
    assert question.prediction == "sat"


def test_running_the_question_again_keeps_the_prediction_until_it_is_revealed():
    question = weights_question()
    question.prediction = "cat"
    again = weights_question()
    assert again.prediction == "cat"
    again.reveal("The")
    assert weights_question().prediction is None


def test_revealing_again_changes_nothing():
    question = weights_question()
    question.prediction = "cat"
    assert repr(question.reveal("The")) == repr(question.reveal("The"))


@pytest.mark.parametrize(
    ("question", "value"), [(weights_question, "dog"), (bytes_question, "12"), (bytes_question, float("nan"))]
)
def test_prediction_that_is_no_answer_is_refused(question, value):
    with pytest.raises(TraitError):
        question().prediction = value


def test_mistakes_of_the_lessons_author_are_named():
    with pytest.raises(ValueError, match="choices"):
        Predict("?")
    with pytest.raises(ValueError, match="choices"):
        Predict("?", choices=["a", "b"], number=True)
    with pytest.raises(ValueError, match="none of the choices"):
        weights_question().reveal("dog")


# ---------------------------------------------------------------- in JupyterLab

IMPORTS = "import math, torch\nfrom course_lib.widgets import Predict, check"
CHOICE = 'key = Predict("Which key gets the largest weight?", choices=["`The`", "`cat`", "`sat`"])\nkey'
AGAIN = 'Predict("Which key gets the smallest one?", choices=["dog", "mat"])'
NUMBER = 'size = Predict("How much memory do the scores of 4,096 tokens take?", number=True, unit="MiB")\nsize'
SKIPPED = 'Predict("And of 8,192?", number=True, unit="MiB").reveal(256)'
MARKUP = 'Predict("<img src=x> or `<b>`?", choices=["<i>one</i>", "two"])'
MISTAKEN = f"{find('01.4').mistakes[0].source}\ncheck('01.4', {find('01.4').answer})"
PASSED = 'check("01.1", 0.625)'


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    """A notebook with cards that have nothing to do with one another, and a last cell to write into."""
    return open_notebook([IMPORTS, CHOICE, AGAIN, NUMBER, SKIPPED, MARKUP, MISTAKEN, PASSED, "# the experiment"])


def type_and_run(page: Page, code: str) -> Locator:
    """Write `code` into the last cell and run it; return the card that it shows."""
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").last.fill(code)
    page.keyboard.press("Control+Enter")
    return page.locator(".jp-Notebook .jp-CodeCell").last.locator(".predict")


def cards(page: Page, question: str) -> Locator:
    """Return the cards of a question: its own, and that of its answer."""
    return page.locator(".predict").filter(has_text=question)


def test_learner_predicts_by_keyboard_and_sees_it_beside_what_happened(page):
    radios = page.get_by_role("group", name="Which key gets the largest weight?").get_by_role("radio")
    radios.first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    expect(radios.nth(1)).to_be_checked()
    expect(cards(page, "largest weight").get_by_text("Noted.")).to_be_visible()

    answer = type_and_run(page, 'key.reveal("`The`", because="It is the sink.")')
    expect(answer.get_by_role("definition")).to_have_text(["cat", "The"])
    expect(answer).to_contain_text("It is the sink.")
    expect(cards(page, "largest weight")).to_have_count(2)
    for card in cards(page, "largest weight").all():  # the question's own card is frozen too
        expect(card.get_by_role("radio").nth(1)).to_be_checked()
        expect(card.get_by_role("radio").first).to_be_disabled()


def test_prediction_survives_running_its_cell_again(page):
    prompt = page.locator(".jp-CodeCell").nth(2).locator(".jp-InputPrompt").first
    expect(prompt).to_have_text("[3]:")
    page.get_by_role("radio", name="mat").click()  # the click selects this cell, not the next
    page.keyboard.press("Shift+Enter")
    expect(prompt).to_have_text(re.compile(r"\[\d\d+\]:"))
    expect(page.get_by_role("radio", name="mat")).to_be_checked()


def test_number_is_typed_and_compared_and_a_skipped_one_says_so(page):
    expect(cards(page, "And of 8,192?")).to_contain_text("skipped this one")
    page.get_by_role("spinbutton", name="How much memory").fill("60")
    expect(cards(page, "How much memory").get_by_text("Noted.")).to_be_visible()
    answer = type_and_run(page, "size.reveal(64, tolerance=8)")
    expect(answer.get_by_role("definition")).to_have_text(["60 MiB", "64 MiB"])
    expect(answer).to_contain_text("Close.")


def test_hints_open_one_at_a_time_and_then_the_solution(page):
    exercise = find("01.4")
    card = page.get_by_role("region", name="Exercise 01.4")
    expect(card.get_by_role("status")).to_have_text("Not yet")
    expect(card).to_contain_text(exercise.mistakes[0].hint)
    solution = card.get_by_role("button", name="Show the solution")
    for number, hint in enumerate(exercise.hints, start=1):
        expect(solution).to_be_disabled()
        card.get_by_role("button", name=f"Hint {number} of 3").focus()
        page.keyboard.press("Enter")
        expect(card.get_by_role("listitem")).to_have_count(number)
        expect(card.get_by_role("listitem").last).to_have_text(hint)
    expect(card.locator("pre")).to_have_count(0)
    page.keyboard.press("Enter")  # the focus has moved on to the solution's button
    expect(card.locator("pre")).to_have_text(exercise.solution.strip())
    expect(card).to_contain_text(exercise.why)
    expect(card.get_by_role("button")).to_have_count(0)
    screenshot(card, "exercise_check")


def test_passed_exercise_shows_its_solution_without_hints(page):
    card = page.get_by_role("region", name="Exercise 01.1")
    expect(card.get_by_role("status")).to_have_text("Passed")
    expect(card.get_by_role("button")).to_have_text(["Show the solution"])


def test_text_is_never_taken_for_markup(page):
    expect(page.get_by_role("group", name="<img src=x> or <b>?")).to_be_visible()
    assert page.locator(".predict").locator("img, b, i").count() == 0


def test_cards_in_the_dark_theme_keep_the_learners_violet(open_notebook):
    stopped = "def attention(q, k, v):\n    return q @ keys"
    checks = ['check("01.1", 0.2)', 'check("01.1", 0.625)', 'check("01.4", None)', stopped, 'check("01.4", attention)']
    page = open_notebook([IMPORTS, CHOICE, 'key.prediction = "`cat`"\nkey.reveal("`The`")', *checks], height=1900)
    screenshot(page, "cards_light")
    use_theme(page, "JupyterLab Dark")
    own = page.locator(".predict dl .own").first
    expect(own).to_have_css("color", "rgb(199, 155, 242)")
    expect(page.locator(".exercise-check").first).to_have_css("border-left-color", "rgb(199, 155, 242)")
    screenshot(page, "cards_dark")
