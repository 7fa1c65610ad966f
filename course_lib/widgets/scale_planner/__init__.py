"""ScalePlanner: what a training run takes in memory, days and money, beside what published runs took."""

from course_lib.widgets.scale_planner.widget import ScalePlanner

__all__ = ["ScalePlanner"]
