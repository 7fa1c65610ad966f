"""The feedback of an exercise: what the check found, hints one at a time, and the solution one click further."""

from anywidget import AnyWidget
from traitlets import List, Unicode

from course_lib.exercises import Exercise, Outcome, find
from course_lib.widgets.shared.base import module, style_sheet

__all__ = ["ExerciseCheck", "check"]


class ExerciseCheck(AnyWidget):
    """Show `outcome`, what the check of `exercise` found, with the exercise's hints and its solution behind buttons.

    Hints open from vague to plain; the solution opens when all hints are open, or when the exercise is passed. As plain
    text it is one line, `Exercise 01.3: not attempted`, followed by what is wrong, if anything is.
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    exercise = Unicode().tag(sync=True)
    title = Unicode().tag(sync=True)
    status = Unicode().tag(sync=True)
    message = Unicode().tag(sync=True)
    got = Unicode().tag(sync=True)
    wanted = Unicode().tag(sync=True)
    hints = List(Unicode()).tag(sync=True)
    solution = Unicode().tag(sync=True)
    why = Unicode().tag(sync=True)

    def __init__(self, exercise: Exercise, outcome: Outcome):
        super().__init__(
            exercise=exercise.id,
            title=exercise.title,
            status=outcome.status,
            message=outcome.message,
            got=outcome.got,
            wanted=outcome.wanted,
            hints=list(exercise.hints),
            solution=exercise.solution,
            why=exercise.why,
        )

    def __repr__(self) -> str:
        lines = [f"Exercise {self.exercise}: {self.status}"]
        if self.status in ("wrong", "error"):
            lines.append(self.message)
        if self.got:
            lines.append(f"Yours: {self.got}.")
        if self.wanted:
            lines.append(f"Wanted: {self.wanted}.")
        return "\n".join(lines)


def check(exercise_id: str, answer: object) -> ExerciseCheck:
    """Check `answer`, a function or a value, against the exercise `exercise_id`, such as "01.3", and show what was found."""
    exercise = find(exercise_id)
    return ExerciseCheck(exercise, exercise.check(answer))
