"""AttentionStepper: one small attention, number by number: scores, scale, mask, softmax, weighted sum."""

from course_lib.widgets.attention_stepper.widget import AttentionStepper

__all__ = ["AttentionStepper"]
