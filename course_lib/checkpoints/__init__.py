"""Real checkpoints into a `TransformerLM`: lesson 03.

Read in this order:

- `loading`: by name, by folder or by hub id
- `gguf`: the files of llama.cpp, converted once
- `folders`: safetensors as `transformers` stores them
- `model_types`: each kind of model's configuration and tensor names, as ours
"""

from course_lib.checkpoints.gguf import MODELS, convert
from course_lib.checkpoints.loading import load, load_encoder

__all__ = ["MODELS", "convert", "load", "load_encoder"]
