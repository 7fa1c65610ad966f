"""The exercises of lesson 03, the Transformer, in the order of the lesson."""

from course_lib.exercises.lesson_03.repair import REPAIR
from course_lib.exercises.lesson_03.trace import TRACE
from course_lib.exercises.lesson_03.what_if import WHAT_IF
from course_lib.exercises.lesson_03.write_swiglu import WRITE_SWIGLU
from course_lib.exercises.lesson_03.write_top_p import WRITE_TOP_P

__all__ = ["EXERCISES"]

EXERCISES = (TRACE, REPAIR, WRITE_SWIGLU, WRITE_TOP_P, WHAT_IF)
