"""The exercises of lesson 04, pretraining, in the order of the lesson."""

from course_lib.exercises.lesson_04.repair_loss import REPAIR_LOSS
from course_lib.exercises.lesson_04.trace import TRACE

__all__ = ["EXERCISES"]

EXERCISES = (TRACE, REPAIR_LOSS)
