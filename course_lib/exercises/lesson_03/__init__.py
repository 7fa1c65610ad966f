"""The exercises of lesson 03, the Transformer, in the order of the lesson."""

from course_lib.exercises.lesson_03.build_model import BUILD_MODEL
from course_lib.exercises.lesson_03.repair_block import REPAIR_BLOCK
from course_lib.exercises.lesson_03.repair_cross_attention import REPAIR_CROSS_ATTENTION
from course_lib.exercises.lesson_03.trace_bytes import TRACE_BYTES
from course_lib.exercises.lesson_03.trace_config import TRACE_CONFIG
from course_lib.exercises.lesson_03.trace_norm import TRACE_NORM
from course_lib.exercises.lesson_03.trace_parameters import TRACE_PARAMETERS
from course_lib.exercises.lesson_03.what_if import WHAT_IF
from course_lib.exercises.lesson_03.write_swiglu import WRITE_SWIGLU
from course_lib.exercises.lesson_03.write_top_p import WRITE_TOP_P

__all__ = ["EXERCISES"]

EXERCISES = (
    TRACE_NORM,
    REPAIR_BLOCK,
    WRITE_SWIGLU,
    TRACE_PARAMETERS,
    BUILD_MODEL,
    WRITE_TOP_P,
    TRACE_BYTES,
    WHAT_IF,
    REPAIR_CROSS_ATTENTION,
    TRACE_CONFIG,
)
