"""The course's live widgets: one Python class each, with its picture drawn in the browser."""

from course_lib.widgets.attention_explorer import AttentionExplorer
from course_lib.widgets.attention_stepper import AttentionStepper
from course_lib.widgets.cache_view import CacheView
from course_lib.widgets.checkpoint_scrubber import CheckpointScrubber
from course_lib.widgets.exercise_check import ExerciseCheck, check
from course_lib.widgets.logit_lens import LogitLens
from course_lib.widgets.parallelism_timeline import ParallelismTimeline
from course_lib.widgets.predict import Predict
from course_lib.widgets.sampling_playground import SamplingPlayground
from course_lib.widgets.scale_planner import ScalePlanner
from course_lib.widgets.tokenizer_view import TokenizerView
from course_lib.widgets.training_dashboard import TrainingDashboard

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
