"""The exercises of lesson 05, fine-tuning, in the order of the lesson."""

from course_lib.exercises.lesson_05.build_adapter import BUILD_ADAPTER
from course_lib.exercises.lesson_05.build_chat_loss import BUILD_CHAT_LOSS
from course_lib.exercises.lesson_05.repair_targets import REPAIR_TARGETS
from course_lib.exercises.lesson_05.trace import TRACE
from course_lib.exercises.lesson_05.what_if import WHAT_IF
from course_lib.exercises.lesson_05.write_lora import WRITE_LORA

__all__ = ["EXERCISES"]

EXERCISES = (TRACE, REPAIR_TARGETS, BUILD_CHAT_LOSS, WRITE_LORA, BUILD_ADAPTER, WHAT_IF)
