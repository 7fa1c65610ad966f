"""The course's live widgets: a folder each, with its class (`widget.py`), what the browser draws (`view.js`, `style.css`), and
the still picture that readers without a kernel see (`picture.py`).

- `predict`, `exercise_check`: a question before running, and the feedback of an exercise (every lesson)
- `attention_explorer`: every head of a running model on the learner's sentence (01, 02)
- `attention_stepper`: one small attention, number by number (02)
- `tokenizer_view`: a text as its tokens, and the merges of a word (03)
- `logit_lens`: what the residual stream would predict after every layer (03)
- `sampling_playground`: how temperature and filters reshape the next token's odds (03)
- `cache_view`: what a model computes and reads at every step of writing (03)
- `training_dashboard`: a training run as it happens (04)
- `checkpoint_scrubber`: one model at every point of its training (04)
- `scale_planner`: what a training run takes in memory, days and money (04)
- `parallelism_timeline`: who computes, sends and waits in one training step (04)
- `chat_format_view`: a chat as tokens, what the loss is on, and how chats share a row (05)
- `lora_view`: what an adapter adds to a weight, and the answers with and without it (05)
- `preference_labeller`: which of two answers is better, said by the learner and kept in a file (06)
- `rlhf_dashboard`: a policy while it learns from a reward, on a leash (06)
- `constraint_view`: a pattern as an automaton, and a model that writes under the mask that follows from it (07)
- `retrieval_explorer`: which chunks a query finds, by words, by meaning and by both, and what is answered from them (07)
- `chat_app`: a conversation with a model, its branches and its memory (07)
- `shared`: how a widget is put together, and what several of them draw
"""

from course_lib.widgets.attention_explorer.widget import AttentionExplorer
from course_lib.widgets.attention_stepper.widget import AttentionStepper
from course_lib.widgets.cache_view.widget import CacheView
from course_lib.widgets.chat_app.widget import ChatApp
from course_lib.widgets.chat_format_view.widget import ChatFormatView
from course_lib.widgets.checkpoint_scrubber.widget import CheckpointScrubber
from course_lib.widgets.constraint_view.widget import ConstraintView
from course_lib.widgets.exercise_check.widget import ExerciseCheck, check
from course_lib.widgets.logit_lens.widget import LogitLens
from course_lib.widgets.lora_view.widget import LoraView
from course_lib.widgets.parallelism_timeline.widget import ParallelismTimeline
from course_lib.widgets.predict.widget import Predict
from course_lib.widgets.preference_labeller.widget import PreferenceLabeller
from course_lib.widgets.retrieval_explorer.widget import RetrievalExplorer
from course_lib.widgets.rlhf_dashboard.widget import RLHFDashboard
from course_lib.widgets.sampling_playground.widget import SamplingPlayground
from course_lib.widgets.scale_planner.widget import ScalePlanner
from course_lib.widgets.tokenizer_view.widget import TokenizerView
from course_lib.widgets.training_dashboard.widget import TrainingDashboard

__all__ = [
    "AttentionExplorer",
    "AttentionStepper",
    "CacheView",
    "ChatApp",
    "ChatFormatView",
    "CheckpointScrubber",
    "ConstraintView",
    "ExerciseCheck",
    "LogitLens",
    "LoraView",
    "ParallelismTimeline",
    "Predict",
    "PreferenceLabeller",
    "RLHFDashboard",
    "RetrievalExplorer",
    "SamplingPlayground",
    "ScalePlanner",
    "TokenizerView",
    "TrainingDashboard",
    "check",
]
