"""A server of the course's models that speaks OpenAI's protocol for chats: lesson 07.

`python -m course_lib.serve`, in `__main__`, starts it. Read in this order:

- `protocol`: what a request may hold, and what answers and errors look like
- `writer`: tokens become text, up to a string that ends it
- `engine`: one thread and one batch, in which the texts of all clients are written
- `app`: the addresses, who may use them, streams, and clients that go away
"""

from course_lib.serve.app import make_app
from course_lib.serve.engine import Engine

__all__ = ["Engine", "make_app"]
