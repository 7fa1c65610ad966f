"""The exercises of lesson 01, self-attention, in the order of the lesson."""

from course_lib.exercises.lesson_01.repair import REPAIR
from course_lib.exercises.lesson_01.trace import TRACE
from course_lib.exercises.lesson_01.what_if import WHAT_IF
from course_lib.exercises.lesson_01.write_attention import WRITE_ATTENTION
from course_lib.exercises.lesson_01.write_window import WRITE_WINDOW

__all__ = ["EXERCISES"]

EXERCISES = (TRACE, REPAIR, WRITE_ATTENTION, WRITE_WINDOW, WHAT_IF)
