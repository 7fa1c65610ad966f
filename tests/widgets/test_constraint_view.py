"""ConstraintView: what it shows against the library's masks and against `re` and `json`, and what a learner does with it."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from playwright.sync_api import Locator, Page, expect

from course_lib.applications.constraints import Constraint, removed_mass
from course_lib.applications.constraints.automata import compile_pattern
from course_lib.architecture import TransformerLM
from course_lib.inference import generate
from course_lib.tokenization import Tokenizer, train_bpe
from course_lib.widgets import ConstraintView
from course_lib.widgets.constraint_view import widget as widget_module
from course_lib.widgets.constraint_view.examples import EXAMPLES
from course_lib.widgets.constraint_view.layout import MAX_NEAR, drawing_of
from course_lib.widgets.constraint_view.verdicts import verdict_on_json, verdict_on_match

DATE, PROMPT = "[0-9]{4}-[0-9]{2}", "On"
SMALL = """
import torch
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.tokenization import train_bpe
from course_lib.widgets import ConstraintView
torch.manual_seed(1)
tokenizer = train_bpe(["On 1789-07-14 and 1805-12-02. " * 9], 280)
model = TransformerLM(TransformerConfig(vocab_size=288, d_model=32, n_layers=2, n_heads=2, d_ff=32, context_length=160))
model.embedding.weight.data.mul_(20)
model.eval()
"""
PATIENCE = 60_000  # ms


@pytest.fixture(scope="module")
def small() -> tuple[TransformerLM, Tokenizer]:
    """A small model with eight rows more than its tokenizer has tokens."""
    names = {}
    exec(SMALL, names)
    return names["model"], names["tokenizer"]


@pytest.fixture
def view(small) -> ConstraintView:
    return ConstraintView(*small, PROMPT, DATE, max_new_tokens=16)


# ---------------------------------------------------------------- what is written, and what is said of it


def test_it_writes_what_generate_writes_with_the_rule_and_without(small, view):
    model, tokenizer = small
    view.write()
    ids, constraint = tokenizer.encode_prompt(PROMPT), Constraint(DATE, tokenizer)
    options = {"stop_ids": tokenizer.end_ids, "banned_ids": range(tokenizer.vocab_size, 288)}
    assert view.text == tokenizer.decode(generate(model, ids, 16, rule=constraint.rule(16), **options))
    assert view.free_text == tokenizer.decode(generate(model, ids, 16, **options))
    assert re.fullmatch(DATE, view.text) and view.result["verdict"]["valid"]
    assert view.result["free"]["verdict"]["valid"] == bool(re.fullmatch(DATE, view.free_text))
    before = view.result
    view.step()  # both have ended
    assert view.result == before


def test_numbers_are_those_of_the_mask(small, view):
    model, tokenizer = small
    view.step()
    ids = [*tokenizer.encode_prompt(PROMPT), view.steps[0]["id"]]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))[0, -1]
    logits = logits.clone()
    logits[tokenizer.vocab_size :] = -torch.inf
    rule = Constraint(DATE, tokenizer).rule(16)
    allowed, before = rule.allowed(ids[-1:]), logits.softmax(-1)
    now = rule(ids[-1:], logits).softmax(-1)
    assert view.result["removed"] == pytest.approx(removed_mass(logits, allowed).item(), abs=1e-5)
    assert view.result["n_allowed"] == allowed.sum() and view.result["n_tokens"] == tokenizer.vocab_size
    shown = view.result["next"]
    assert [token["id"] for token in shown[:8]] == before.topk(8).indices.tolist()
    assert {token["id"] for token in shown} >= set(now.topk(5).indices.tolist())
    for token in shown:
        assert token["before"] == pytest.approx(before[token["id"]].item(), abs=1e-5)
        assert token["now"] == pytest.approx(now[token["id"]].item(), abs=1e-5)
        assert bool(token["out"]) == (not allowed[token["id"]])


def test_a_tokens_way_is_that_of_its_bytes(view):
    automaton = compile_pattern(DATE)
    view.write()
    state = 0
    for step in view.steps[:-1]:
        assert step["states"][0] == state
        assert len(step["states"]) == len(step["bytes"]) + 1
        state = automaton.walk(step["piece"].encode(), state)
        assert step["states"][-1] == state
    assert any(len(step["bytes"]) > 1 for step in view.steps)
    view.set(wanted=DATE)
    out = [token for token in view.result["next"] if token["out"] == "automaton"]
    assert out and all(token["states"][-1] == -1 for token in out)


def test_another_token_can_be_chosen_and_taken_away(view):
    first = view.result
    likeliest = max(first["next"], key=lambda token: token["now"])
    other = next(token for token in first["next"] if not token["out"] and token["id"] != likeliest["id"])
    view.choose(other["id"])
    assert view.text == other["piece"] and view.steps[0]["by_hand"]
    struck = next(token for token in view.result["next"] if token["out"])
    with pytest.raises(ValueError, match="is not allowed here"):
        view.choose(struck["id"])
    with pytest.raises(ValueError, match="id must be at least 0 and at most 287"):
        view.choose(-1)
    view.back()
    assert view.result == first
    view.back()
    assert view.result == first
    view.write()
    n_steps = len(view.steps)
    view.back()  # the end itself
    assert len(view.steps) == n_steps - 1 and not view.result["ended"]
    view.step()
    assert view.result["ended"] == "end"


def test_the_room_closes_the_text_in_time(small):
    for room in (2, 5, 9):
        view = ConstraintView(*small, PROMPT, '"[a-z ]*"', max_new_tokens=room)
        view.write()
        assert re.fullmatch('"[a-z ]*"', view.text) and len(view._own.ids) <= room
        assert view.result["verdict"]["valid"]
    view = ConstraintView(*small, PROMPT, '"[a-z ]*"', max_new_tokens=2)
    view.step()
    assert (view.result["n_allowed"], view.result["left"], view.result["distance"]) == (1, 1, 1)
    assert view.result["n_allowed_without_room"] > 20 and view.result["removed_by_room"] > 0
    with pytest.raises(ValueError, match="max_new_tokens must be at least 7, the bytes of the shortest text, not 3"):
        view.set(wanted=DATE, max_new_tokens=3)


def test_a_schema_is_written_and_read_by_json(small):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    view = ConstraintView(*small, PROMPT, schema, max_new_tokens=20)
    view.write()
    assert isinstance(json.loads(view.text)["a"], int)
    assert view.settings["kind"] == "schema" and "jsonschema says: it fits" in view.result["verdict"]["said"]


def test_the_real_model_writes_every_example(smollm2):
    for example in EXAMPLES:
        wanted = json.loads(example["wanted"]) if example["kind"] == "schema" else example["wanted"]
        view = ConstraintView(*smollm2, example["prompt"], wanted)
        for _ in range(3):
            view.step()
        assert all(step["states"][-1] >= 0 and 0 <= step["removed"] <= 1 for step in view.steps)


# ---------------------------------------------------------------- the drawing


@pytest.mark.parametrize("wanted", [DATE, "(yes|no)", "(ab|c)*d", "", "(a|b)*a(a|b)(a|b)", "[^x]*é"])
def test_every_state_and_edge_of_a_small_automaton_is_drawn_once(wanted):
    automaton = compile_pattern(wanted)
    drawing = drawing_of(automaton, 0)
    states = {state["id"]: state for state in drawing["states"]}
    assert drawing["is_whole"] and set(states) == set(range(len(automaton)))
    assert [states[id]["accepting"] for id in sorted(states)] == automaton.accepting.tolist()
    assert not any(state["hidden"] for state in states.values())
    assert len({(state["column"], state["row"]) for state in states.values()}) == len(states)
    pairs = {(source, target) for source, target in zip(*np.nonzero(automaton.table >= 0), strict=True)}
    wanted_pairs = {(source, int(automaton.table[source, byte])) for source, byte in pairs}
    assert sorted((edge["source"], edge["target"]) for edge in drawing["edges"]) == sorted(wanted_pairs)
    for edge in drawing["edges"]:
        assert states[edge["target"]]["column"] <= states[edge["source"]]["column"] + 1


def test_of_a_large_automaton_the_neighbourhood_is_drawn():
    automaton = compile_pattern("[a-z]{200}")
    for state in (0, 100, 200):
        drawing = drawing_of(automaton, state)
        shown = {near["id"]: near for near in drawing["states"]}
        assert not drawing["is_whole"] and drawing["n_states"] == 201
        assert set(shown) == set(range(max(state - 1, 0), min(state + 2, 200) + 1))
        assert shown[max(shown)]["hidden"] == (state < 198)
    fan = drawing_of(compile_pattern("|".join(f"{letter}x{letter}{{9}}" for letter in "abcdefghijklmnopqrstuvwxyz")), 0)
    assert len(fan["states"]) <= MAX_NEAR and fan["states"][0]["hidden"] > 0


# ---------------------------------------------------------------- what cannot be


def ask(view: ConstraintView, request: dict) -> list[dict]:
    """Send what the browser sends, and return the answers."""
    answers = []
    view.send = lambda message, _buffers=None: answers.append(message)
    view._answer(view, request, [])
    return answers


@pytest.mark.parametrize(
    ("kind", "wanted", "complaint", "at"),
    [
        ("pattern", "a(b", "this ( is never closed", 1),
        ("pattern", "ab**", "a quantifier cannot follow", 3),
        ("pattern", r"[^\s\S]", "no text that this tokenizer can write matches", None),
        ("pattern", "a{99999}", "the pattern is too large", None),
        ("pattern", "a{17}", "max_new_tokens must be at least 17", None),
        ("pattern", "(" * 300, "more than 100 groups", 100),
        ("pattern", "a" * 20_001, "the pattern has 20,001 characters, and 20,000 fit", None),
        ("schema", '{"type": }', "Expecting value", 9),
        ("schema", "[1]", "a schema is an object", None),
        ("schema", "{}", "the schema at # needs a type", None),
        ("schema", "[" * 15_000, "too deep", None),
        ("schema", '{"type": "string", "pattern": "a("}', "never closed", None),
        ("xml", "<a/>", "kind must be one of", None),
    ],
)  # fmt: skip
def test_what_does_not_compile_is_said_with_its_place_and_changes_nothing(view, kind, wanted, complaint, at):
    view.step()
    before = view.settings, view.result, view.drawing
    assert ask(view, {"type": "wanted", "settings": {"kind": kind, "wanted": wanted}}) == [{"type": "done"}]
    assert complaint in view.problem["message"] and view.problem["at"] == at
    assert (view.settings, view.result, view.drawing) == before
    ask(view, {"type": "wanted", "settings": {"kind": "pattern", "wanted": "a+"}})
    assert view.problem == {} and view.settings["wanted"] == "a+" and view.text == ""
    json.dumps([view.settings, view.result, view.drawing], allow_nan=False)


def test_settings_that_cannot_be_are_named(small, view):
    before = view.result
    for changes, complaint in [
        ({"prompt": ""}, "The text is empty"),
        ({"prompt": "7" * 200}, "The text has"),
        ({"prompt": None}, "prompt must be str"),
        ({"max_new_tokens": 160}, "max_new_tokens must be at least 1 and at most 159"),
        ({"max_new_tokens": float("nan")}, "max_new_tokens must be int"),
        ({"wanted": None}, "wanted must be str"),
        ({"room": 3}, "no such setting: room; there are kind, wanted"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            view.set(**changes)
    assert view.result == before
    for model, tokenizer in ((None, small[1]), (small[0], None)):
        with pytest.raises(ValueError, match=r"(model|tokenizer) must be \w+, not None"):
            ConstraintView(model, tokenizer, PROMPT, DATE)


def test_a_model_without_numbers_and_a_tokenizer_without_an_end_are_refused(small):
    model, tokenizer = small
    diverged = TransformerLM(model.config).eval()
    torch.nn.init.constant_(diverged.embedding.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="The model's logits are no numbers"):
        ConstraintView(diverged, tokenizer, PROMPT, DATE)
    endless = train_bpe(["On 1789"], 256, special_tokens=[])
    with pytest.raises(ValueError, match="no token that ends a text"):
        ConstraintView(model, endless, PROMPT, DATE)
    larger = train_bpe([" ".join(map(str, range(300)))], 400)
    with pytest.raises(ValueError, match="do they belong together"):
        ConstraintView(model, larger, PROMPT, DATE)


def test_a_model_that_ceases_to_give_numbers_leaves_what_was_written(small, view):
    view.step()
    before, weight = view.result, small[0].embedding.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        assert "no numbers" in ask(view, {"type": "step"})[0]["message"]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert view.result == before
    assert ask(view, {"type": "step"}) == [{"type": "done"}]  # and what was kept of the old weights is not used


def test_verdicts_come_to_an_end():
    assert verdict_on_match("ab", "a.") == (True, "The library regex says: it matches as a whole.")
    assert verdict_on_match("é", r"\w")[0] is False  # as with re.ASCII
    assert verdict_on_match("a" * 40 + "c", "(?:a|a)*b|(?:a|a)*d")[0] in (None, False)
    schema = {"type": "string", "pattern": "^(a|a)*b$"}
    assert verdict_on_json('"aab"', schema)[0] is True and verdict_on_json('"ca"', schema)[0] is False
    assert verdict_on_json(f'"{"a" * 40}"', schema)[0] in (None, False)
    assert verdict_on_json("[" * 99_999, schema)[0] is False


def test_a_text_is_judged_once(small, monkeypatch):
    judged = []
    monkeypatch.setattr(widget_module, "verdict_on_match", lambda text, _pattern: judged.append(text) or (None, "?"))
    view = ConstraintView(*small, PROMPT, "one|two", max_new_tokens=16)
    view.write()
    assert view.result["verdict"]["valid"] is None
    assert len(view.free_text) > len(view.text) and judged == [view.text, view.free_text]


def test_saved_notebook_shows_a_picture_and_a_line_of_text(view):
    view.write()
    data, _ = view._repr_mimebundle_()
    assert data["text/plain"].startswith("ConstraintView: 8 states, ") and repr(view.text) in data["text/plain"]
    assert 10_000 < len(base64.b64decode(data["image/png"])) < 200_000
    for wanted in ("", "[a-z]{1,12}", "é|漢|😀"):  # no edge; many states; labels of any byte
        view.set(wanted=wanted)
        assert view._repr_mimebundle_()[0]["image/png"]


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(
        [SMALL, f"view = ConstraintView(model, tokenizer, {PROMPT!r}, {DATE!r}, max_new_tokens=16)\nview"]
    )


@pytest.fixture
def widget(page) -> Locator:
    return page.locator(".constraint-view")


def type_wanted(widget: Locator, wanted: str) -> None:
    widget.get_by_role("textbox", name="What the text must be").fill(wanted)


def press(widget: Locator, name: str) -> None:
    widget.get_by_role("button", name=name).click(timeout=PATIENCE)


def test_a_learner_types_a_pattern_writes_under_it_and_chooses(widget, page):
    expect(widget.locator(".state")).to_have_count(8)
    expect(widget.locator(".edge")).to_have_count(8)  # and the arrow to the start
    expect(widget.locator(".state.here text")).to_have_text("0")
    press(widget, "Step ▶")
    expect(widget.locator(".masked .chip")).to_have_count(1, timeout=PATIENCE)
    expect(widget.locator(".free .chip")).to_have_count(1)
    here = int(widget.locator(".state.here text").text_content())
    expect(widget.locator(".edge.walked")).to_have_count(here)
    expect(widget.locator(".walk .at")).to_have_count(here + 1)

    struck = widget.locator(".odds li.out .chip").first
    struck.click()  # is looked at, not taken
    expect(widget.locator(".walk")).to_contain_text("leads nowhere")
    assert "line-through" in struck.evaluate("chip => getComputedStyle(chip).textDecoration")
    allowed = widget.locator(".odds li:not(.out) .chip").last
    allowed.focus()
    page.keyboard.press("Enter")
    expect(widget.locator(".masked .by-hand")).to_have_count(1, timeout=PATIENCE)
    press(widget, "◀ Back")
    expect(widget.locator(".masked .chip")).to_have_count(1, timeout=PATIENCE)
    press(widget, "Write all")
    expect(widget.locator(".masked .verdict")).to_contain_text("✓ Valid. The library regex says", timeout=PATIENCE)
    expect(widget.locator(".free .verdict")).to_contain_text("✗ Not valid.", timeout=PATIENCE)
    expect(widget.get_by_role("button", name="Step ▶")).to_be_disabled()
    written = widget.locator(".masked .chip:not(.end)").all_inner_texts()
    assert re.fullmatch(DATE, "".join(written))
    screenshot(widget, "constraint_view_written")


def test_what_does_not_compile_is_said_under_the_box_and_nothing_typed_is_run(widget, page):
    type_wanted(widget, "(<img src=x>")
    alert = widget.locator(".wanted [role=alert]")
    expect(alert).to_contain_text("this ( is never closed; at character 0", timeout=PATIENCE)
    expect(widget.locator(".wanted pre")).to_have_text("(<img src=x>\n▲")
    expect(widget.get_by_role("button", name="Step ▶")).to_be_disabled()
    type_wanted(widget, "<img src=x>")
    expect(widget.locator(".state")).to_have_count(12, timeout=PATIENCE)
    expect(alert).to_be_empty()
    assert widget.locator("img").count() == 0


def test_examples_a_large_automaton_and_no_room(widget, page):
    widget.get_by_role("combobox", name="Examples").select_option(label="three towns, in JSON")
    expect(widget.locator(".automaton header")).to_contain_text("Too large to be drawn whole", timeout=PATIENCE)
    expect(widget.get_by_role("textbox", name="Prompt")).to_have_value(EXAMPLES[-1]["prompt"])
    widget.get_by_role("slider", name="room").fill("0")
    expect(widget.locator(".prompt [role=alert]")).to_contain_text("max_new_tokens must be at least", timeout=PATIENCE)
    press(widget, "Write all")
    expect(widget.locator(".masked .chip").nth(2)).to_be_visible(timeout=PATIENCE)
    press(widget, "Stop")
    expect(widget.get_by_role("button", name="Stop")).to_be_disabled()


def test_looks_in_the_dark_and_at_any_width_and_without_a_kernel(widget, page):
    use_theme(page, "JupyterLab Dark")
    screenshot(widget, "constraint_view_dark")
    use_theme(page, "JupyterLab Light")
    for width in (860, 1110, 1560):
        page.set_viewport_size({"width": width, "height": 1700})
        screenshot(widget, f"constraint_view_{width}")
        assert cut_off([widget, *widget.locator("section:not(.automaton), .columns, .controls, .odds").all()]) == []
    shut_down_kernel(page)
    press(widget, "Step ▶")
    expect(widget.locator(".prompt [role=alert]")).to_contain_text("The kernel is not running")
