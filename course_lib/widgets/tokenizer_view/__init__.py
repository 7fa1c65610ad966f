"""TokenizerView: a text as its tokens, and the merges of one of its words replayed step by step."""

from course_lib.widgets.tokenizer_view.widget import TokenizerView

__all__ = ["TokenizerView"]
