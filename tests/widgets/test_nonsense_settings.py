"""Settings drawn at random, sensible and not: a widget shows what follows from them, or names one and stays as it was."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.widgets import ParallelismTimeline, ScalePlanner

NONSENSE = [math.nan, math.inf, -math.inf, -4, -0.5, 0, 0.5, 3, 10**30, 10**400, 5e-324, "", "3", None, True, [], b"x"]
SENSIBLE = {
    "scheme": ["data", "tensor", "interleaved", "expert"], "n_devices": [1, 4], "n_microbatches": [4, 8],
    "link": [1.0, 900.0], "imbalance": [1.0, 2.0],
    "example": list(ScalePlanner.examples), "parameters": [1e9, 1e12], "tokens": [1, 1e13], "active": [1e8],
    "gpu": ["A100"], "tensor": [2], "stage": [3], "precision": ["float8"], "mfu": [0.5], "sequences": [2],
}  # fmt: skip
TIMELINE, PLANNER = ParallelismTimeline("tensor"), ScalePlanner()


def in_browser(widget) -> str:
    """What the browser gets, which reads neither NaN nor Infinity."""
    return json.dumps([widget.settings, widget.result], allow_nan=False)


@pytest.mark.parametrize("widget", [TIMELINE, PLANNER], ids=lambda widget: type(widget).__name__)
@settings(max_examples=150)
@given(st.data())
def test_a_setting_is_refused_by_name_or_shown(widget, data):
    names = data.draw(st.lists(st.sampled_from([*widget.settings]), min_size=1, max_size=2, unique=True))
    changes = {name: data.draw(st.sampled_from(NONSENSE + 4 * SENSIBLE.get(name, []))) for name in names}
    before = in_browser(widget)
    try:
        widget.set(**changes)
    except ValueError as error:
        assert any(name in str(error) for name in widget.settings) or "divide" in str(error) or "multiple" in str(error)
        assert in_browser(widget) == before
    else:
        assert {name: widget.settings[name] for name in changes} == changes
        in_browser(widget)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ParallelismTimeline("tensor", link=math.nan), "link must be at least 1e-06 and at most 1e"),
        (lambda: ParallelismTimeline("tensor", link=math.inf), "link"),
        (lambda: ParallelismTimeline(["tensor"]), "scheme must be one of"),
        (lambda: ParallelismTimeline("data", n_microbatches=-3), "n_microbatches must be positive"),
        (lambda: ScalePlanner("GPT-7"), "example must be one of"),
        (lambda: ScalePlanner().set(sequences=-4), "sequences must be positive and finite, not -4"),
        (lambda: ScalePlanner().set(parameters="many"), "parameters must be float, not 'many'"),
        (lambda: ScalePlanner().set(n_layer=4), "no such setting: n_layer; there are example, parameters"),
    ],
)
def test_what_went_through_is_named(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
