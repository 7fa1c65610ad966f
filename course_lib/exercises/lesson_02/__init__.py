"""The exercises of lesson 02, multi-head attention, in the order of the lesson."""

from course_lib.exercises.lesson_02.repair import REPAIR
from course_lib.exercises.lesson_02.trace import TRACE
from course_lib.exercises.lesson_02.what_if import WHAT_IF
from course_lib.exercises.lesson_02.write_grouped import WRITE_GROUPED
from course_lib.exercises.lesson_02.write_rotary import WRITE_ROTARY

__all__ = ["EXERCISES"]

EXERCISES = (TRACE, REPAIR, WRITE_ROTARY, WRITE_GROUPED, WHAT_IF)
