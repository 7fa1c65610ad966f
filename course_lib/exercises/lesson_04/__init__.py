"""The exercises of lesson 04, pretraining, in the order of the lesson."""

from course_lib.exercises.lesson_04.repair_accumulation import REPAIR_ACCUMULATION
from course_lib.exercises.lesson_04.repair_loss import REPAIR_LOSS
from course_lib.exercises.lesson_04.trace import TRACE
from course_lib.exercises.lesson_04.what_if import WHAT_IF
from course_lib.exercises.lesson_04.write_adamw import WRITE_ADAMW
from course_lib.exercises.lesson_04.write_merge import WRITE_MERGE

__all__ = ["EXERCISES"]

EXERCISES = (TRACE, REPAIR_LOSS, WRITE_MERGE, WRITE_ADAMW, REPAIR_ACCUMULATION, WHAT_IF)
