"""Gold objects fit their schemas and stand in their texts; scores against hand-computed ones; hostile answers and files."""

import json
import math
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from course_lib.tasks.extraction import (
    SCHEMAS,
    ExtractionTask,
    Score,
    by_rules,
    extraction_tasks,
    first_object,
    read_extraction_tasks,
    request,
    score,
)

TASKS = extraction_tasks()
ORDER = ExtractionTask(
    "order",
    "Receipt, 2032-06-30. Sold to: Ines Okafor. Gloves 12.90, a hat 20.00, together 32.90.",
    {"customer": "Ines Okafor", "articles": ["Gloves", "hat"], "date": "2032-06-30", "total": 32.9, "is_gift": False},
)
WEATHER = ExtractionTask("weather", "…", {"place": "Oslo", "sky": "rain", "high_celsius": 1, "low_celsius": 0})


def answer(task: ExtractionTask, **fields: object) -> str:
    return json.dumps(task.gold | fields)


def test_there_are_sixty_of_nine_kinds_and_each_kind_has_one_schema():
    assert len(TASKS) == len({task.text for task in TASKS}) == 60
    assert {kind: sum(task.kind == kind for task in TASKS) for kind in SCHEMAS} == {
        **{"library": 6, "lost": 7, "weather": 7, "letter": 6, "match": 6},
        **{"playbill": 7, "course": 7, "recipe": 7, "order": 7},
    }
    assert all(task.schema is SCHEMAS[task.kind] for task in TASKS) and extraction_tasks() is TASKS


def test_schemas_are_closed_objects_of_two_to_five_fields_that_refer_to_nothing():
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
        assert 2 <= len(schema["properties"]) <= 5 and schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False and "$ref" not in json.dumps(schema)
    fields = [field for schema in SCHEMAS.values() for field in schema["properties"].values()]
    assert {field["type"] for field in fields} == {"string", "integer", "number", "boolean", "array"}
    assert any("enum" in field for field in fields) and any("pattern" in field for field in fields)


def test_every_gold_object_fits_its_schema_in_its_order():
    for task in TASKS:
        Draft202012Validator(task.schema).validate(task.gold)
        assert list(task.gold) == list(task.schema["properties"])


def test_every_text_in_a_gold_object_stands_in_the_text_but_for_the_choices():
    for task in TASKS:
        for name, value in task.gold.items():
            if "enum" not in task.schema["properties"][name]:
                texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
                assert all(text in task.text for text in texts), (task.text, name)


def test_every_choice_and_both_truths_occur():
    for kind, schema in SCHEMAS.items():
        for name, field in schema["properties"].items():
            found = {task.gold[name] for task in TASKS if task.kind == kind and field["type"] != "array"}
            assert found == set(field.get("enum", found))
            assert field["type"] != "boolean" or found == {True, False}


def test_texts_are_of_a_few_sentences():
    for task in TASKS:
        assert 60 <= len(task.text) <= 250 and task.text == " ".join(task.text.split())
        assert 2 <= len(re.findall(r"(?<!Dr|Mr|Ms)(?<!Mrs)[.?!](?= |$)", task.text)) <= 5, task.text


def test_the_gold_object_is_all_right():
    for task in TASKS:
        assert score(task, json.dumps(task.gold)) == Score(parses=True, valid=True, fields_right=1.0)
        assert score(task, json.dumps(task.gold, indent=4, ensure_ascii=False)).fields_right == 1.0


@pytest.mark.parametrize(
    ("fields", "valid", "right"),
    [
        ({"customer": " ines  OKAFOR. "}, True, 5),
        ({"customer": "Ｉｎｅｓ Okafor"}, True, 5),  # full-width letters
        ({"customer": "'The Ines Okafor'"}, True, 5),
        ({"customer": "then Ines Okafor"}, True, 4),
        ({"customer": "Okafor"}, True, 4),
        ({"customer": "Okafor Ines"}, True, 4),
        ({"customer": ""}, True, 4),
        ({"customer": "I" * 41}, False, 4),
        ({"customer": None}, False, 4),
        ({"customer": ["Ines Okafor"]}, False, 4),
        ({"articles": ["A hat", "the gloves"]}, True, 5),
        ({"articles": ["hat", "hat", "gloves"]}, True, 4),
        ({"articles": ["hat"]}, True, 4),
        ({"articles": []}, True, 4),
        ({"articles": "Gloves, hat"}, False, 4),
        ({"articles": ["Gloves", "hat", 1]}, False, 4),
        ({"articles": [["Gloves"], "hat"]}, False, 4),
        ({"articles": ["hat"] * 7}, False, 4),
        ({"date": "30 June 2032"}, False, 4),
        ({"date": "2032-06-31"}, True, 4),
        ({"total": 32.90}, True, 5),
        ({"total": 33}, True, 4),
        ({"total": "32.9"}, False, 4),
        ({"total": -(10**400)}, True, 4),
        ({"is_gift": True}, True, 4),
        ({"is_gift": 0}, False, 4),
        ({"is_gift": "false"}, False, 4),
        ({"total": False}, False, 4),
        ({"note": "paid"}, False, 5),
        ({"customer": 1, "articles": 1, "date": 1, "total": 1, "is_gift": 1}, False, 0),
    ],
)
def test_scores_by_hand(fields, valid, right):
    assert score(ORDER, answer(ORDER, **fields)) == Score(parses=True, valid=valid, fields_right=right / 5)


def test_numbers_are_no_truths_and_missing_fields_are_wrong():
    assert score(WEATHER, answer(WEATHER, high_celsius=True, low_celsius=False)) == Score(True, False, 0.5)
    assert score(WEATHER, answer(WEATHER, high_celsius=1.0)) == Score(True, True, 1.0)
    assert score(WEATHER, answer(WEATHER, high_celsius=1.5)) == Score(True, False, 0.75)
    assert score(WEATHER, '{"place": "Oslo"}') == Score(True, False, 0.25)
    assert score(WEATHER, "{}") == Score(True, False, 0.0)
    assert score(WEATHER, '{"place": "Oslo", "place": "Bergen"}') == Score(True, False, 0.0)


NOTHING, NO_OBJECT = Score(False, False, 0.0), Score(True, False, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, NOTHING) for text in ("", " ", "no", "{", '{"place": "Oslo"', "{'place': 'Oslo'}", "\x00", "\ud800")),
        *((text, NOTHING) for text in ("NaN", "-Infinity", '{"high_celsius": NaN}', '{"high_celsius": Infinity}')),
        *((text, NOTHING) for text in ("[" * 10**6, "[" * 10**5 + "]" * 10**5, "9" * 10**6, '{"a":' * 10**5)),
        *((text, NOTHING) for text in ('{"place": "Oslo"} and more', '```json\n{"place": "Oslo"}\n```')),
        *(
            (text, NO_OBJECT)
            for text in ("null", "true", "1", '"place"', "[]", "[[[]]]", '[{"place": "Oslo"}]', "1e999")
        ),
        ('{"place": ' + "[" * 500 + "]" * 500 + "}", NO_OBJECT),
        ('{"place": "\\ud800", "sky": 1e999, "high_celsius": 1e999}', NO_OBJECT),
        ('{"place": "' + "o" * 10**6 + '"}', NO_OBJECT),
    ],
    ids=range(29),
)
def test_garbage_scores_nothing_and_raises_nothing(text, expected):
    assert score(WEATHER, text) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ORDER.gold, "more"]) | st.text(), inner),
)


def is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@given(JSON)
def test_any_value_has_a_score_that_agrees_with_jsonschema(value):
    found = score(ORDER, json.dumps(value))
    assert 0 <= found.fields_right <= 1
    assert found.valid == (found.parses and Draft202012Validator(ORDER.schema).is_valid(value))
    assert found.parses == is_json(value)


@given(st.text())
def test_any_text_has_a_score(text):
    found = score(ORDER, text)
    assert found.parses or found == NOTHING
    assert not first_object(text) or isinstance(json.loads(first_object(text)), dict)


@pytest.mark.parametrize("text", [None, b"{}", 1, math.nan, {}, ["{}"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ValueError, match="text must be str"):
        score(ORDER, text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Here: ```json\n{"a": {"b": [1]}}\n``` {"c": 2}', '{"a": {"b": [1]}}'),
        ('{"a": "}"} {', '{"a": "}"}'),
        *((text, "") for text in ("", "none", "[1, 2]", "{", '{"a": 1', "{a} {}", "}{", '{"a":' * 10**5)),
    ],
    ids=range(10),
)
def test_the_first_object_is_cut_out_of_what_stands_around_it(text, found):
    assert first_object(text) == found


# ---------------------------------------------------------------- damaged files

LINES = (resources.files("course_lib.tasks") / "data" / "extraction.jsonl").read_bytes().splitlines(keepends=True)


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(LINES[0]) | fields).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cut short"),
        (b"".join(LINES)[:-9], "cut short"),
        (LINES[0] + LINES[1][:50] + b"\n", "line 2"),
        (b"[]\n", "line 1"),
        (b"\xff\xfe\x00{}\n", "line 1"),
        (b"{}\n", "line 1"),
        (changed(more=1), "more"),
        (changed(kind="poem"), "unknown kind of text: poem"),
        (changed(kind=["library"]), "kind must be str"),
        (changed(text=None), "text must be str"),
        (changed(gold=[]), "gold must be dict"),
        (changed(gold={}), "does not fit the schema of library"),
        (changed(gold={"title": "x", "due": "tomorrow"}), "'tomorrow' does not match"),
        (changed(gold={"title": "x", "due": "2031-04-17", "more": 1}), "does not fit"),
        (changed(gold={"title": math.nan, "due": "2031-04-17"}), "does not fit"),
    ],
    ids=range(15),
)
def test_damage_is_named_with_its_file_and_line(tmp_path, content, complaint):
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_extraction_tasks(path)
    assert str(path) in str(caught.value)


def test_the_request_has_the_text_and_the_fields_and_not_the_answer():
    assert request(ORDER) == f"{ORDER.text}\n\nExtract customer, articles, date, total, is_gift as JSON."


def test_rules_alone_are_always_valid_and_right_as_far_as_types_go():
    scores = [score(task, by_rules(task)) for task in TASKS]
    assert all(one.valid for one in scores)
    assert 0.3 < sum(one.fields_right for one in scores) / 60 < 0.55
    assert json.loads(by_rules(ORDER)) == {
        **{"customer": "Ines Okafor", "articles": [], "date": "2032-06-30", "total": 12.9, "is_gift": False},
    }
