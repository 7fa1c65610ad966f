"""LoraView: what an adapter adds to a weight, how much of it each rank keeps, and how the model answers with and without it."""

from course_lib.widgets.lora_view.widget import LoraView

__all__ = ["LoraView"]
