"""The feedback of an exercise: what the check found, hints one at a time, and the solution one click further."""

from course_lib.widgets.exercise_check.widget import ExerciseCheck, check

__all__ = ["ExerciseCheck", "check"]
