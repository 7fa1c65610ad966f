"""PreferenceLabeller: two answers to a prompt side by side, and a file that keeps which of them is better."""

from course_lib.widgets.preference_labeller.widget import PreferenceLabeller

__all__ = ["PreferenceLabeller"]
