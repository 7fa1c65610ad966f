"""Masks against llguidance's and outlines-core's, token for token; what is written under them, against `re` and jsonschema."""

import json
import re
import sys
from random import Random

import jsonschema
import numpy as np
import outlines_core
import pytest
import torch

from course_lib.applications.constraints import Constraint, ConstraintRule, grammar, removed_mass
from course_lib.applications.constraints.schemas import schema_pattern
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, generate, roll_out, stream_text
from course_lib.tokenization import Tokenizer, train_bpe

TEXT = {"type": "string", "maxLength": 12}
SCHEMAS = {
    "person": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "age": {"type": "integer"},
            "height": {"type": "number"},
            "married": {"type": "boolean"},
        },
        "required": ["name", "age", "height", "married"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {
            "a": {"type": "null"},
            "b": {"enum": [1, "zwei", None, {"drei": [3.5]}]},
            "c": {"const": 'é\n"\\'},
        },
    },
    "needed in the middle": {
        "type": "object",
        "properties": {key: {"type": ["boolean", "null"]} for key in "abcde"},
        "required": ["d", "b"],
    },
    "nested": {
        "type": "object",
        "properties": {
            "when": {"type": "string", "pattern": "^[0-9]{4}-[01][0-9]$"},
            "where": {"type": "object", "properties": {"town": TEXT}, "required": ["town"]},
            "tags": {
                "type": "array",
                "items": {"type": "string", "enum": ["x.y", "a|b", "(c)"]},
                "minItems": 1,
                "maxItems": 3,
            },
            "grid": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "integer", "minimum": -3, "maximum": 12}},
            },
        },
        "required": ["when", "where", "tags", "grid"],
        "title": "a remark",
    },
    "found inside": {"type": "string", "pattern": 'a"\\s[^b]'},
    "lengths": {
        "type": "array",
        "items": {"type": "string", "minLength": 2, "maxLength": 3},
        "minItems": 2,
        "maxItems": 2,
    },
    "empty": {"type": "array", "items": {"type": "object"}, "maxItems": 0},
}
PATTERNS = [
    "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "(?:yes|no|I do not know)\\.",
    "[A-Z][a-z]+(?: [A-Z][a-z]+){0,2}",
    '[^"\\x00-\\x1F]{0,20}',
    "-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?",
    "(?:(?:a|ab)(?:c|bcd)(?:d*)){1,3}",
    "[α-ω]+(?: [α-ω日本]+)*!?",
    "(?:\\n|.)*end",
]


@pytest.fixture(scope="module")
def small():
    """A small tokenizer; of its two special tokens one ends a text."""
    texts = [
        '{"name": "Hamlet", "age": 30, "tags": ["x.y", "a|b"]}',
        "to be or not to be, that is the question: é日本 😀",
    ] * 3
    return train_bpe(texts, 400, special_tokens=["<e>", "<s>"])


def write(constraint: Constraint, random: Random, max_new_tokens: int) -> str:
    """Write as a model would whose logits are random: any allowed token is as likely as any other."""
    rule, ids = constraint.rule(max_new_tokens), []
    while len(ids) < max_new_tokens:
        id = random.choice(rule.allowed(ids).nonzero()[:, 0].tolist())
        if id in constraint.tokenizer.end_ids:
            break
        ids.append(id)
    return constraint.tokenizer.decode(ids)


# ---------------------------------------------------------------- valid, whatever the model


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_written_fits_the_schema_whatever_the_logits_and_however_little_room(small, name):
    constraint, random = Constraint(SCHEMAS[name], small), Random(name)
    validator, least = jsonschema.Draft202012Validator(SCHEMAS[name]), int(constraint.distances[0])
    texts = [write(constraint, random, random.choice([least, least + 5, 2 * least, 300])) for _ in range(200)]
    for text in texts:
        validator.validate(json.loads(text))
        assert re.fullmatch(constraint.pattern, text)
    assert len({*texts}) > (1 if name == "empty" else 5)


@pytest.mark.parametrize("name", ["person", "nested"])
def test_the_real_vocabulary_writes_valid_json_too(smollm2, name):
    constraint, random = Constraint(SCHEMAS[name], smollm2[1]), Random(0)
    validator = jsonschema.Draft202012Validator(SCHEMAS[name])
    for _ in range(20):
        validator.validate(json.loads(write(constraint, random, 130)))


def test_values_that_fit_are_matched_and_others_are_not():
    pattern = schema_pattern(SCHEMAS["needed in the middle"])
    for text in (
        '{"b":true,"d":null}',
        '{ "a": true, "b": null, "c":false ,"d":true,"e":null}'.replace(" ,", ","),
        '{\n"b":true, "d":null\n}',
    ):
        assert re.fullmatch(pattern, text), text
    for text in (
        '{"b":true}',
        '{"d":true,"b":true}',
        '{"b":true,,"d":true}',
        '{,"b":true,"d":true}',
        '{"b":1,"d":true}',
        '{"b":true,  "d":true}',
        '{"b":true,"d":true,}',
    ):
        assert not re.fullmatch(pattern, text), text
    for none in ({"properties": {}}, {"additionalProperties": False}):
        assert re.fullmatch(schema_pattern({"type": "object", **none}), "{}")
    number, integer = schema_pattern({"type": "number"}), schema_pattern({"type": "integer"})
    for text in ("0", "-1.50", "999999999999999", "-0"):
        assert re.fullmatch(number, text)
    for text in ("01", ".5", "1.", "+1", "1e5", "", "-"):
        assert not re.fullmatch(number, text) and not re.fullmatch(integer, text)
    assert not re.fullmatch(integer, "-0") and re.fullmatch(integer, "-10")


def test_what_a_schema_asks_of_a_string_is_asked_of_what_it_says_not_of_how_it_is_written():
    pattern = schema_pattern({"type": "string", "pattern": "^.{2}$"})
    for said in ("ab", '"\\', "\té", "😀/"):
        assert re.fullmatch(pattern, json.dumps(said, ensure_ascii=False)), said
    for said in ("a", "abc", "\n\n", '"""'):
        assert not re.fullmatch(pattern, json.dumps(said, ensure_ascii=False)), said
    dollar = schema_pattern({"type": "string", "pattern": r"^\$$"})
    assert re.fullmatch(dollar, '"$"') and not re.fullmatch(dollar, '"$$"')
    assert re.fullmatch(schema_pattern({"type": "string", "pattern": r"\$"}), '"a$b"')  # no anchor: found anywhere
    assert re.fullmatch(schema_pattern({"type": "string", "pattern": r"\\$"}), r'"a\\"')  # an anchor after a backslash


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (True, "the schema at # must be an object, not True"),
        ({}, "needs a type"),
        ({"$ref": "#/x"}, "needs a type"),
        ({"anyOf": [{"type": "null"}]}, "needs a type"),
        ({"type": "text"}, "must be of object, array, string"),
        ({"type": [{}]}, "must be of object"),
        ({"type": {}}, "must be of object"),
        ({"type": "string", "format": "date"}, "format at # has no regular expression here"),
        (
            {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number", "multipleOf": 2}}}},
            "multipleOf at #/properties/a/items",
        ),
        ({"type": "string", "maxLength": -1}, "maxLength at # must be at least 0"),
        ({"type": "string", "maxLength": True}, "maxLength at # must be int"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength at # is 3, more than maxLength, 2"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "maxLength beside a pattern at #"),
        ({"type": "string", "pattern": "^a|b$"}, "put the alternatives into a group"),
        ({"type": "string", "pattern": "a(?=b)"}, "no lookaround"),
        ({"type": "string", "pattern": 3}, "pattern at # must be str"),
        ({"type": "integer", "minimum": 1}, "minimum and maximum at # must be two integers"),
        ({"type": "integer", "minimum": 0, "maximum": 1e6}, "at most 1,000 apart"),
        ({"type": "array"}, "the array at # needs items"),
        ({"type": "object", "required": ["b"], "properties": {}}, "required at # names 'b'"),
        ({"type": "object", "properties": {3: {"type": "null"}}}, "the name of a property at # must be str"),
        ({"type": "object", "properties": []}, "properties at # must be an object"),
        ({"type": "object", "properties": {}, "required": [{}]}, "and required a list of names"),
        ({"type": "object"}, "the object at # needs properties; grammar() can leave them open"),
        ({"type": ["null", "object"], "additionalProperties": True}, "the object at # needs properties"),
        ({"enum": []}, "must be a list of values"),
        ({"enum": "yes"}, "must be a list of values"),
        ({"type": "string", "enum": [1, True]}, "no value at # fits its type"),
        ({"type": "integer", "const": True}, "no value at # fits its type"),
        ({"enum": [float("nan")]}, "JSON"),
    ],
)
def test_what_is_no_schema_of_the_subset_is_refused_with_its_place(schema, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        schema_pattern(schema)


def test_a_schema_that_has_no_end_or_grows_without_bound_is_refused():
    circle = {"type": "array", "items": None}
    circle["items"] = circle
    with pytest.raises(ValueError, match="more than 10 deep"):
        schema_pattern(circle)
    wide = {"type": "boolean"}
    for _ in range(4):
        wide = {"type": "object", "properties": {f"field{i}": wide for i in range(30)}}
    with pytest.raises(ValueError, match="longer than 200,000 characters"):
        schema_pattern(wide)


# ---------------------------------------------------------------- the same masks as the libraries'


def walks(constraint: Constraint, random: Random, least_steps: int = 40):
    """Yield the ids of texts that random logits begin, one token longer each time."""
    ids, n_steps = [], 0
    while ids or n_steps < least_steps:
        yield ids
        n_steps += 1
        after = constraint.rule().allowed(ids).nonzero()[:, 0].tolist()
        after = [id for id in after if id not in constraint.tokenizer.end_ids]
        ids = [*ids, random.choice(after)] if after and len(ids) < 25 else []


COMPARED = [*PATTERNS, *map(schema_pattern, (SCHEMAS["person"], SCHEMAS["nested"]))]


@pytest.mark.parametrize("pattern", COMPARED)
def test_masks_are_those_of_llguidance(smollm2, pattern):
    """Where only one string can follow, as the name of a field, it allows the one token that the tokenizer would take."""
    tokenizer = smollm2[1]
    constraint, peer = (
        Constraint(pattern, tokenizer),
        grammar("start: /" + pattern.replace("/", "\\/") + "/", tokenizer),
    )
    n_equal = 0
    for ids in walks(constraint, Random(pattern)):
        ours, theirs = constraint.rule().allowed(ids), peer.rule().allowed(ids)
        n_equal += torch.equal(ours, theirs)
        if not torch.equal(ours, theirs):
            (forced,) = theirs.nonzero()[:, 0].tolist()
            written = tokenizer.decode_bytes([forced])
            others = [tokenizer.decode_bytes([id]) for id in ours.nonzero()[:, 0].tolist()]
            assert all(written.startswith(other) or other.startswith(written) for other in others) and ours[forced]
    assert n_equal > 10


@pytest.mark.parametrize("pattern", COMPARED)
def test_masks_are_those_of_outlines_core_but_for_what_that_leaves_out(smollm2, pattern):
    """Version 0.2.14 leaves out a token that goes one byte beyond a whole text and is none: after `12`, the point of `12.5`."""
    tokenizer = smollm2[1]
    constraint, tokens = Constraint(pattern, tokenizer), {}
    for token, id in tokenizer.vocab.items():
        if token not in tokenizer.special_tokens:
            tokens.setdefault(tokenizer.decode_bytes([id]), []).append(id)
    (end,) = tokenizer.end_ids
    index = outlines_core.Index(pattern, outlines_core.Vocabulary(end, tokens))
    accepting, n_allowed = {*np.flatnonzero(constraint.automaton.accepting).tolist()}, 0
    for ids in walks(constraint, Random(pattern)):
        ours = constraint.rule().allowed(ids)
        state = constraint.rule().state(ids)
        for id in [id for id in ours.nonzero()[:, 0].tolist() if id != end]:
            data = tokenizer.decode_bytes([id])
            before = constraint.automaton.walk(data[:-1], state)
            if before in accepting and constraint.automaton.walk(data[-1:], before) not in accepting:
                ours[id] = False
        guide = outlines_core.Guide(index)
        try:
            for id in ids:
                guide.advance(id)
        except ValueError:  # that token is one that it leaves out
            continue
        assert guide.get_tokens() and ours.nonzero()[:, 0].tolist() == sorted(guide.get_tokens())
        n_allowed += 1
    assert n_allowed >= 3  # the others lie behind a token that it leaves out


# ---------------------------------------------------------------- rules, in the loops that write


@pytest.fixture(scope="module")
def model(small):
    seed_everything(0)
    config = TransformerConfig(
        vocab_size=small.vocab_size + 7, d_model=16, n_layers=1, n_heads=2, d_ff=16, context_length=128
    )
    return TransformerLM(config).eval()


def test_a_model_that_knows_nothing_writes_valid_json(model, small):
    constraint, sampling = Constraint(SCHEMAS["person"], small), Sampling(temperature=3.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        text = "".join(
            stream_text(model, small, "to be", 100, sampling, rule=constraint.rule(100), generator=generator)
        )
        jsonschema.validate(json.loads(text), SCHEMAS["person"])
    options = {"stop_ids": small.end_ids, "noise": torch.rand(6, 100, generator=generator)}
    rules = [constraint.rule(100), None, constraint.rule(100)] * 2
    rollouts = roll_out(model, [[1, 2], [3]], 100, sampling, n_samples=3, rules=rules, **options)
    for rule, answer in zip(rules, rollouts.answers, strict=True):
        if rule is not None:
            jsonschema.validate(
                json.loads(small.decode([id for id in answer if id not in small.end_ids])), SCHEMAS["person"]
            )


def test_a_rule_keeps_the_allowed_logits_as_they_are(small):
    rule = Constraint("ab?", small).rule()
    logits = torch.randn(small.vocab_size + 3)
    allowed = rule.allowed([])
    changed = rule([], logits)
    assert len(allowed) == small.vocab_size and allowed.any()
    assert (changed[:-3][allowed] == logits[:-3][allowed]).all()
    assert (changed[:-3][~allowed] == -torch.inf).all() and (changed[-3:] == -torch.inf).all()
    with pytest.raises(ValueError, match="do they belong together"):
        rule([], logits[:20])
    assert rule([], logits.to(torch.bfloat16)).dtype == torch.bfloat16
    assert rule([], torch.full_like(logits, torch.nan))[:-3][allowed].isnan().all()


def test_a_rule_that_is_asked_about_another_text_begins_anew(small):
    constraint = Constraint("(?:ab|ba)+", small)
    (a,), (b,) = small.encode("a"), small.encode("b")
    rule = constraint.rule()
    for ids in ([], [a], [a, b], [b], [b, a, a], [a], [a, b, b]):
        assert torch.equal(rule.allowed(ids), constraint.rule().allowed(ids)), ids
    for wrong in ([a, a], [a, small.special_tokens["<s>"]], [a, 10**6]):
        with pytest.raises(ValueError, match=r"is not allowed where it stands|is no id"):
            rule.allowed(wrong)
    assert torch.equal(rule.allowed([a, b]), constraint.rule().allowed([a, b]))  # after an error too
    rule.allowed([a]).zero_()  # the caller's to change
    assert torch.equal(rule.allowed([a]), constraint.rule().allowed([a])) and rule.allowed([a]).any()
    with pytest.raises(ValueError, match="are the tokenizer's end_ids among the stop_ids"):
        rule.allowed([a, b, *small.end_ids])


def test_an_end_is_allowed_where_the_text_is_whole_and_no_other_special_token_anywhere(small):
    constraint = Constraint(r"[\s\S]*", small)
    mask = constraint.rule().allowed([])
    assert mask[list(small.end_ids)].all() and not mask[small.special_tokens["<s>"]]
    assert mask.sum() == small.vocab_size - 1 - sum(
        small.decode_bytes([i])[0] >= 0x80 and not valid_start(small.decode_bytes([i])) for i in small.vocab.values()
    )
    first = small.encode("é")[0]
    if len(small.decode_bytes([first])) == 1:  # half a character: the text is not whole
        assert not constraint.rule().allowed([first])[list(small.end_ids)].any()


def valid_start(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def test_the_room_that_is_left_brings_a_text_to_its_end(small):
    constraint = Constraint("[a-z]*!", small)
    for room in (1, 2, 5):
        assert len(write(constraint, Random(room), room)) >= 1
    (letter,), (end,) = small.encode("q"), small.encode("!")
    rule = constraint.rule(2)
    assert rule.allowed([])[letter] and rule.allowed([letter]).nonzero()[:, 0].tolist() == [end]
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, the bytes of the shortest text, not 0"):
        constraint.rule(0)
    for wrong in (-1, 2.5, "3", True):
        with pytest.raises(ValueError, match="max_new_tokens"):
            constraint.rule(wrong)


def test_what_no_token_can_finish_is_not_begun():
    """There is a token for a, b and bc, and none for c alone or d."""
    tokenizer = Tokenizer({"a": 0, "b": 1, "bc": 2}, [], {"<e>": 5}, end_tokens=("<e>",))
    rule = Constraint("a(?:b|bd)|bd", tokenizer).rule()
    assert rule.allowed([]).nonzero()[:, 0].tolist() == [0]
    assert rule.allowed([0]).nonzero()[:, 0].tolist() == [1]
    assert rule.allowed([0, 1]).nonzero()[:, 0].tolist() == [5]
    with pytest.raises(ValueError, match="no text that this tokenizer can write matches"):
        Constraint("bd", tokenizer)
    with pytest.raises(ValueError, match="no text that this tokenizer can write matches"):
        Constraint(r"a[^\s\S]", tokenizer)
    with pytest.raises(ValueError, match="no token that ends a text"):
        Constraint("a", Tokenizer({"a": 0}, [], {}))
    with pytest.raises(ValueError, match="a pattern must be str"):
        Constraint(3, tokenizer)


def test_the_mass_that_a_mask_removes_is_a_share():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [-torch.inf, 0.0, 0.0, -torch.inf]])
    removed = removed_mass(logits, torch.tensor([True, False, True]))
    torch.testing.assert_close(removed, torch.tensor([0.5, 0.5]))
    assert removed_mass(logits[0], torch.ones(4, dtype=torch.bool)) == 0
    with pytest.raises(ValueError, match="at most as long as the 4 logits, not 5"):
        removed_mass(logits, torch.ones(5, dtype=torch.bool))


def test_the_real_model_answers_in_the_form_that_is_asked_of_it(smollm2):
    model, tokenizer = smollm2
    prompt = tokenizer.encode("When did men first walk on the moon? Answer with a date, as 1999-12-31:\n")
    ids = list(
        generate(
            model,
            prompt,
            20,
            stop_ids=tokenizer.end_ids,
            rule=Constraint("[0-9]{4}-[01][0-9]-[0-3][0-9]", tokenizer).rule(20),
        )
    )
    assert re.fullmatch("[0-9]{4}-[01][0-9]-[0-3][0-9]", tokenizer.decode(ids))


# ---------------------------------------------------------------- the door to llguidance


def test_a_grammar_is_a_rule_too(smollm2):
    model, tokenizer = smollm2
    brackets = grammar('start: "(" start ")" | "x"', tokenizer)
    rule = brackets.rule()
    assert isinstance(rule, ConstraintRule)
    opening, x, closing = (tokenizer.encode(sign)[0] for sign in "(x)")
    assert rule.allowed([])[[opening, x]].all() and not rule.allowed([])[closing]
    assert rule.allowed([opening, x])[closing] and not rule.allowed([opening, x])[list(tokenizer.end_ids)].any()
    assert rule.allowed([opening])[x]  # another text: the states of the first are as they were
    assert rule.allowed([opening, x, closing]).nonzero()[:, 0].tolist() == sorted(tokenizer.end_ids)
    with pytest.raises(ValueError, match="is not allowed where it stands"):
        rule.allowed([closing])
    ids = list(generate(model, [1], 4, stop_ids=tokenizer.end_ids, rule=brackets.rule()))
    assert set(tokenizer.decode(ids)) <= set("(x)")


def test_a_grammar_takes_schemas_that_are_too_much_for_a_regular_expression(smollm2):
    tokenizer = smollm2[1]
    tree = {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    with pytest.raises(ValueError, match="grammar"):
        schema_pattern(tree)
    rule, random, ids = grammar(tree, tokenizer).rule(), Random(0), []
    for _ in range(30):
        after = rule.allowed(ids).nonzero()[:, 0].tolist()
        ids.append(random.choice(after))
        if ids[-1] in tokenizer.end_ids:
            jsonschema.validate(json.loads(tokenizer.decode(ids[:-1])), tree)
            break


@pytest.mark.parametrize("wrong", ['start: "a" b', "", {"type": "strin"}, 3])
def test_a_grammar_that_is_none_is_refused(smollm2, wrong):
    with pytest.raises(ValueError, match=r"llguidance refuses|wanted must be str"):
        grammar(wrong, smollm2[1])


def test_nothing_of_the_library_is_needed_before_a_grammar_is(monkeypatch, small):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert Constraint("a", small).rule().allowed([]).any()
