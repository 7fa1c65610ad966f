"""From a model that continues to one that answers: lesson 05.

- `lora`: small matrices trained beside frozen large ones, in `peft`'s own files
"""

from course_lib.finetuning.lora import LoraConfig, add_lora, load_adapter, merge, save_adapter, unmerge

__all__ = ["LoraConfig", "add_lora", "load_adapter", "merge", "save_adapter", "unmerge"]
