"""From text to token ids and back: lessons 03 to 05.

Read in this order:

- `bpe`: byte-pair encoding over bytes (03)
- `training`: how its merges are learned (04)
- `sentencepiece`: the same over characters (03)
- `files`: tokenizers as `transformers` stores them (03)
- `chat_template`: dialogues as text, and `sandbox`, which bounds what a template can do (03, 05)
"""

from course_lib.tokenization.bpe import Tokenizer
from course_lib.tokenization.files import load_tokenizer, save_tokenizer
from course_lib.tokenization.training import train_bpe

__all__ = ["Tokenizer", "load_tokenizer", "save_tokenizer", "train_bpe"]
