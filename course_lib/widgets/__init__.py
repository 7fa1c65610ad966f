"""The course's live widgets: one Python class each, with its picture drawn in the browser."""

from course_lib.widgets.attention_explorer.widget import AttentionExplorer
from course_lib.widgets.attention_stepper.widget import AttentionStepper
from course_lib.widgets.cache_view.widget import CacheView
from course_lib.widgets.checkpoint_scrubber.widget import CheckpointScrubber
from course_lib.widgets.exercise_check.widget import ExerciseCheck, check
from course_lib.widgets.logit_lens.widget import LogitLens
from course_lib.widgets.parallelism_timeline.widget import ParallelismTimeline
from course_lib.widgets.predict.widget import Predict
from course_lib.widgets.sampling_playground.widget import SamplingPlayground
from course_lib.widgets.scale_planner.widget import ScalePlanner
from course_lib.widgets.tokenizer_view.widget import TokenizerView
from course_lib.widgets.training_dashboard.widget import TrainingDashboard

__all__ = [
    "AttentionExplorer",
    "AttentionStepper",
    "CacheView",
    "CheckpointScrubber",
    "ExerciseCheck",
    "LogitLens",
    "ParallelismTimeline",
    "Predict",
    "SamplingPlayground",
    "ScalePlanner",
    "TokenizerView",
    "TrainingDashboard",
    "check",
]
