"""A question to predict before running: the learner commits to an answer, a later cell shows it beside what happened."""

from course_lib.widgets.predict.widget import Predict

__all__ = ["Predict"]
