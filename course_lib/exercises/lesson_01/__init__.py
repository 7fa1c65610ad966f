"""The exercises of lesson 01, self-attention, in the order of the lesson."""

from course_lib.exercises.lesson_01.build_self_attention import BUILD_SELF_ATTENTION
from course_lib.exercises.lesson_01.repair import REPAIR
from course_lib.exercises.lesson_01.trace import TRACE
from course_lib.exercises.lesson_01.trace_cost import TRACE_COST
from course_lib.exercises.lesson_01.trace_scale import TRACE_SCALE
from course_lib.exercises.lesson_01.what_if import WHAT_IF
from course_lib.exercises.lesson_01.write_attention import WRITE_ATTENTION
from course_lib.exercises.lesson_01.write_window import WRITE_WINDOW

__all__ = ["EXERCISES"]

EXERCISES = (
    TRACE,
    TRACE_SCALE,
    REPAIR,
    WRITE_ATTENTION,
    TRACE_COST,
    WRITE_WINDOW,
    WHAT_IF,
    BUILD_SELF_ATTENTION,
)
