"""ParallelismTimeline: who computes, sends and waits in one training step, for every way of dividing it."""

from course_lib.widgets.parallelism_timeline.widget import ParallelismTimeline

__all__ = ["ParallelismTimeline"]
