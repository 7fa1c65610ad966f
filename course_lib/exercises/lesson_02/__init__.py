"""The exercises of lesson 02, multi-head attention, in the order of the lesson."""

from course_lib.exercises.lesson_02.build_multi_head import BUILD_MULTI_HEAD
from course_lib.exercises.lesson_02.repair import REPAIR
from course_lib.exercises.lesson_02.trace_cache import TRACE_CACHE
from course_lib.exercises.lesson_02.trace_fetch import TRACE_FETCH
from course_lib.exercises.lesson_02.trace_induction import TRACE_INDUCTION
from course_lib.exercises.lesson_02.trace_patch import TRACE_PATCH
from course_lib.exercises.lesson_02.trace_weight import TRACE_WEIGHT
from course_lib.exercises.lesson_02.what_if import WHAT_IF
from course_lib.exercises.lesson_02.write_grouped import WRITE_GROUPED
from course_lib.exercises.lesson_02.write_rotary import WRITE_ROTARY

__all__ = ["EXERCISES"]

EXERCISES = (
    TRACE_PATCH,
    TRACE_FETCH,
    TRACE_WEIGHT,
    REPAIR,
    BUILD_MULTI_HEAD,
    TRACE_INDUCTION,
    WRITE_ROTARY,
    TRACE_CACHE,
    WRITE_GROUPED,
    WHAT_IF,
)
