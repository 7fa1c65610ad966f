"""CheckpointScrubber: one model at every point of its training: what it writes, what surprises it, where its heads look."""

from course_lib.widgets.checkpoint_scrubber.widget import CheckpointScrubber

__all__ = ["CheckpointScrubber"]
