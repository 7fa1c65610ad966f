"""A question to predict before running: the learner commits to an answer, a later cell shows it beside what happened."""

import math
from typing import ClassVar

from anywidget import AnyWidget
from traitlets import Any, Bool, List, TraitError, Unicode, validate

from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.numbers import short

__all__ = ["Predict"]


class Predict(AnyWidget):
    """Ask `question` with `choices`, or with `number=True` for a number in `unit`; `reveal` answers it in a later cell.

    `prediction` is what the learner chose, a choice or a float, and None as long as nothing is chosen: skipping is allowed.
    It can be changed until the answer is revealed, and it survives running the question's cell again until then: a click on a
    choice selects that cell, so that Shift+Enter, meant for the next one, runs it.

        guess = Predict("How many of the 6 weights are above 0.5?", choices=["none", "one", "all"])
        guess.reveal("one", because="they add up to 1")
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)
    _latest: ClassVar[dict[str, "Predict"]] = {}  # question -> the widget that asks it

    question = Unicode().tag(sync=True)
    choices = List(Unicode()).tag(sync=True)
    unit = Unicode().tag(sync=True)
    prediction = Any(None, allow_none=True).tag(sync=True)
    revealed = Bool(False).tag(sync=True)
    answer = Unicode().tag(sync=True)
    said = Unicode().tag(sync=True)
    verdict = Unicode().tag(sync=True)
    because = Unicode().tag(sync=True)

    def __init__(self, question: str, choices: list[str] | None = None, *, number: bool = False, unit: str = ""):
        if bool(choices) == number:
            raise ValueError("give either choices=[...] to choose from, or number=True to ask for a number")
        super().__init__(question=question, choices=choices or [], unit=unit)
        earlier = self._latest.get(question)
        if earlier is not None and not earlier.revealed and earlier.choices == self.choices:
            self.prediction = earlier.prediction
        self._latest[question] = self

    def reveal(self, answer: str | float, because: str = "", tolerance: float = 0.0) -> "Predict":
        """Freeze the prediction, and show it beside `answer`: one of the choices, or a number.

        A number within `tolerance` of the answer, in the question's unit, counts as close. `because` is a sentence that
        says why. Raises ValueError for an answer that is none of the choices.
        """
        if self.choices and answer not in self.choices:
            raise ValueError(f"{answer!r} is none of the choices {self.choices}")
        self.said = "" if self.prediction is None else self._in_words(self.prediction)
        self.answer, self.because = self._in_words(answer), because
        self.verdict = self._judge(answer, tolerance)
        self.revealed = True
        return self

    def __repr__(self) -> str:
        if not self.revealed:
            return "\n".join([f"Predict: {self.question}", *(f"  ( ) {choice}" for choice in self.choices)])
        said = f"You said: {self.said}." if self.said else "Skipped."
        return " ".join(filter(None, [said, f"It is: {self.answer}.", self.because]))

    def _judge(self, answer: str | float, tolerance: float) -> str:
        if self.prediction is None:
            return "skipped"
        if self.said == self.answer:
            return "right"
        if not self.choices and abs(self.prediction - float(answer)) <= tolerance:
            return "close"
        return "other"

    def _in_words(self, value: str | float) -> str:
        if self.choices:
            return value
        number = float(value)
        digits = f"{number:,.0f}" if abs(number) >= 1000 else short(number)
        return f"{digits} {self.unit}".rstrip()

    @validate("prediction")
    def _valid_prediction(self, proposal) -> str | float | None:
        value = proposal["value"]
        if self.revealed:
            raise TraitError("the answer is revealed: the prediction can no longer be changed")
        if value is None:
            return None
        if self.choices:
            if value not in self.choices:
                raise TraitError(f"{value!r} is none of the choices {self.choices}")
            return value
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise TraitError(f"the prediction should be a number, not {value!r}")
        return float(value)
