"""CacheView: what a model computes and what it reads at every step of writing a text, with and without a key/value cache."""

from course_lib.widgets.cache_view.widget import CacheView

__all__ = ["CacheView"]
