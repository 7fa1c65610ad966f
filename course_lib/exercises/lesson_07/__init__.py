"""The exercises of lesson 07, applications, in the order of the lesson."""

from course_lib.exercises.lesson_07.build_date import BUILD_DATE
from course_lib.exercises.lesson_07.repair_memory import REPAIR_MEMORY
from course_lib.exercises.lesson_07.repair_tools import REPAIR_TOOLS
from course_lib.exercises.lesson_07.trace_fusion import TRACE_FUSION
from course_lib.exercises.lesson_07.trace_mcnemar import TRACE_MCNEMAR
from course_lib.exercises.lesson_07.trace_pass_at_k import TRACE_PASS_AT_K
from course_lib.exercises.lesson_07.trace_prefix import TRACE_PREFIX
from course_lib.exercises.lesson_07.trace_refusals import TRACE_REFUSALS
from course_lib.exercises.lesson_07.what_if import WHAT_IF
from course_lib.exercises.lesson_07.write_fusion import WRITE_FUSION
from course_lib.exercises.lesson_07.write_pass_at_k import WRITE_PASS_AT_K
from course_lib.exercises.lesson_07.write_watermark import WRITE_WATERMARK

__all__ = ["EXERCISES"]

EXERCISES = (
    *(TRACE_PREFIX, REPAIR_MEMORY, BUILD_DATE, WHAT_IF, WRITE_WATERMARK),
    *(TRACE_PASS_AT_K, WRITE_PASS_AT_K, TRACE_FUSION, WRITE_FUSION, TRACE_REFUSALS, REPAIR_TOOLS, TRACE_MCNEMAR),
)
