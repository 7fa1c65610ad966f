"""The exercises of lesson 06, RLHF, in the order of the lesson."""

from course_lib.exercises.lesson_06.build_dpo import BUILD_DPO
from course_lib.exercises.lesson_06.build_grpo import BUILD_GRPO
from course_lib.exercises.lesson_06.repair_leash import REPAIR_LEASH
from course_lib.exercises.lesson_06.trace_best_of_two import TRACE_BEST_OF_TWO
from course_lib.exercises.lesson_06.trace_preference import TRACE_PREFERENCE
from course_lib.exercises.lesson_06.what_if import WHAT_IF
from course_lib.exercises.lesson_06.write_advantages import WRITE_ADVANTAGES

__all__ = ["EXERCISES"]

EXERCISES = (TRACE_PREFERENCE, TRACE_BEST_OF_TWO, REPAIR_LEASH, WRITE_ADVANTAGES, BUILD_DPO, BUILD_GRPO, WHAT_IF)
