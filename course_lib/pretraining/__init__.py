"""A language model from nothing: lesson 04.

Read in this order:

- `config`: what a run is told
- `optim`: AdamW, Muon, schedules, clipping
- `evaluation`: how well a model predicts a text
- `trainer`: the loop
- `checkpoints`: what it saves, and how it goes on
- `processes`: the same loop in many processes, on many devices
- `scaling`, `parallelism`: what larger runs take, and how they are divided
- `memorisation`: what duplicates do
- `shakespeare_model`: the course's own model

`python -m course_lib.pretraining --config run.toml`, in `__main__`, trains what a file describes.
"""

from course_lib.pretraining.checkpoints import list_checkpoints, load_model
from course_lib.pretraining.config import PretrainingConfig
from course_lib.pretraining.evaluation import bits_per_byte, evaluate
from course_lib.pretraining.trainer import Trainer, read_history

__all__ = [
    "PretrainingConfig",
    "Trainer",
    "bits_per_byte",
    "evaluate",
    "list_checkpoints",
    "load_model",
    "read_history",
]
