"""From a model that continues to one that answers: lesson 05.

Read in this order:

- `rows`: what a Trainer takes in a text's place
- `classification`: a class in place of the next token
- `chats`: chats as tokens, and which of them are trained on
- `supervised`: examples packed into rows, the loss on their answers, how many are right
- `lora`: small matrices trained beside frozen large ones, in `peft`'s own files
- `intervals`: what a score on some hundred items is worth
- `forgetting`: what a small model forgets while it is taught capitals
- `modern_spelling`: the real model taught today's spelling, in runs that the cache keeps
- `config`: a run as a file describes it

`python -m course_lib.finetuning --config run.toml`, in `__main__`, fine-tunes a model as a file describes.
"""

from course_lib.finetuning.chats import Example, add_chat_format, tokenize_chat
from course_lib.finetuning.classification import Classifier, LabelledTexts, label_loss, predict_labels
from course_lib.finetuning.lora import LoraConfig, add_lora, at_scale, load_adapter, merge, save_adapter, unmerge
from course_lib.finetuning.supervised import PackedExamples, answer_loss, score_answers, train_last_blocks

__all__ = [
    "Classifier",
    "Example",
    "LabelledTexts",
    "LoraConfig",
    "PackedExamples",
    "add_chat_format",
    "add_lora",
    "answer_loss",
    "at_scale",
    "label_loss",
    "load_adapter",
    "merge",
    "predict_labels",
    "save_adapter",
    "score_answers",
    "tokenize_chat",
    "train_last_blocks",
    "unmerge",
]
