"""ConstraintView: a pattern as an automaton, and a model that writes under the mask that follows from it, token by token."""

from course_lib.widgets.constraint_view.widget import ConstraintView

__all__ = ["ConstraintView"]
