"""A model at work: writing, and a look inside while it does: lessons 01 to 03, 06 and 07.

Read in this order:

- `generation`: sampling, the loop that writes token after token, replies as streams of text (03)
- `fused_step`: the fast path of that loop (03)
- `prefix`: what was read is kept from text to text (07)
- `rollouts`: many texts at once, from prompts of different lengths (06)
- `replies`: a chat model's replies to many requests, texts in and out (07)
- `batch`: rollouts with texts that come and go while the others are written (07)
- `blocked`: matrices laid out for that (06)
- `interpret`: attention maps, heads switched off, the logit lens (01 to 03)
"""

from course_lib.inference.batch import Batch, Text, Token
from course_lib.inference.generation import Rule, Sampling, generate, stream_reply, stream_text, translate
from course_lib.inference.prefix import PrefixCache
from course_lib.inference.replies import write_replies
from course_lib.inference.rollouts import Rollouts, roll_out

__all__ = [
    "Batch", "PrefixCache", "Rollouts", "Rule", "Sampling", "Text", "Token", "generate", "roll_out", "stream_reply",
    "stream_text", "translate", "write_replies",
]  # fmt: skip
