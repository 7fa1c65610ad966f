"""LogitLens: what the residual stream of a running model would predict after every layer, at every position."""

from course_lib.widgets.logit_lens.widget import LogitLens

__all__ = ["LogitLens"]
