"""SamplingPlayground: how temperature and filters reshape the next token's odds, and what texts the drawing leads to."""

from course_lib.widgets.sampling_playground.widget import SamplingPlayground

__all__ = ["SamplingPlayground"]
