"""The exercises of lesson 05, fine-tuning, in the order of the lesson."""

from course_lib.exercises.lesson_05.build_chat_loss import BUILD_CHAT_LOSS
from course_lib.exercises.lesson_05.repair_targets import REPAIR_TARGETS
from course_lib.exercises.lesson_05.trace_loss import TRACE_LOSS
from course_lib.exercises.lesson_05.trace_memory import TRACE_MEMORY
from course_lib.exercises.lesson_05.trace_peer import TRACE_PEER
from course_lib.exercises.lesson_05.trace_report import TRACE_REPORT
from course_lib.exercises.lesson_05.what_if import WHAT_IF
from course_lib.exercises.lesson_05.write_adapter import WRITE_ADAPTER
from course_lib.exercises.lesson_05.write_interval import WRITE_INTERVAL
from course_lib.exercises.lesson_05.write_lora import WRITE_LORA

__all__ = ["EXERCISES"]

EXERCISES = (
    *(TRACE_PEER, WRITE_INTERVAL),
    *(TRACE_LOSS, REPAIR_TARGETS, BUILD_CHAT_LOSS),
    *(WRITE_LORA, WRITE_ADAPTER, TRACE_MEMORY),
    *(WHAT_IF, TRACE_REPORT),
)
