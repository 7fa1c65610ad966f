"""AttentionExplorer: every attention head of a running model on the learner's own sentence."""

from course_lib.widgets.attention_explorer.widget import AttentionExplorer

__all__ = ["AttentionExplorer"]
