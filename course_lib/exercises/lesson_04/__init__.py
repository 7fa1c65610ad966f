"""The exercises of lesson 04, pretraining, in the order of the lesson."""

from course_lib.exercises.lesson_04.build_loop import BUILD_LOOP
from course_lib.exercises.lesson_04.repair_accumulation import REPAIR_ACCUMULATION
from course_lib.exercises.lesson_04.repair_loss import REPAIR_LOSS
from course_lib.exercises.lesson_04.repair_resume import REPAIR_RESUME
from course_lib.exercises.lesson_04.trace import TRACE
from course_lib.exercises.lesson_04.trace_budget import TRACE_BUDGET
from course_lib.exercises.lesson_04.trace_filter import TRACE_FILTER
from course_lib.exercises.lesson_04.trace_jaccard import TRACE_JACCARD
from course_lib.exercises.lesson_04.what_if import WHAT_IF
from course_lib.exercises.lesson_04.write_adamw import WRITE_ADAMW
from course_lib.exercises.lesson_04.write_merge import WRITE_MERGE
from course_lib.exercises.lesson_04.write_plan import WRITE_PLAN

__all__ = ["EXERCISES"]

EXERCISES = (
    *(TRACE, REPAIR_LOSS, WRITE_ADAMW, REPAIR_ACCUMULATION, BUILD_LOOP),
    *(WRITE_MERGE, TRACE_FILTER, TRACE_JACCARD, WHAT_IF, REPAIR_RESUME, TRACE_BUDGET, WRITE_PLAN),
)
