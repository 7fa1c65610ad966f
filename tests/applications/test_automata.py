"""Automata against Python's own `re`, on patterns and texts that hypothesis makes; how small they are; what is refused."""

import re
import time
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course_lib.applications.constraints.automata import MAX_STATES, byte_label, compile_pattern
from course_lib.applications.constraints.patterns import all_but, parse

ALPHABET = "ab01 _.-\né߿ࠀ€日\ue000\uffff😀\U0010ffff"
CHARACTERS = st.sampled_from(
    [re.escape(c) for c in ALPHABET] + [".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\x41"]
)
SPANS = st.tuples(st.sampled_from(sorted(ALPHABET)), st.sampled_from(sorted(ALPHABET))).map(sorted)
IN_CLASS = st.one_of(
    st.sampled_from([re.escape(c) for c in ALPHABET if c != "-"] + [r"\d", r"\W", r"\S", r"\u20ac", "^"]),
    SPANS.map(lambda span: f"{re.escape(span[0])}-{re.escape(span[1])}"),
)
CLASSES = st.tuples(st.sampled_from(["[", "[^", "[]"]), st.lists(IN_CLASS, min_size=1, max_size=4)).map(
    lambda parts: parts[0] + "".join(parts[1]).lstrip("^" if parts[0] == "[" else "") + "]"
)
QUANTIFIERS = st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "{1,3}", "{2,}", "{,2}", "{0}", "{,}"])


def larger(patterns):
    groups = st.tuples(st.sampled_from(["(", "(?:"]), patterns).map(lambda parts: "".join(parts) + ")")
    return st.one_of(
        st.tuples(groups, QUANTIFIERS).map("".join),
        st.lists(groups, max_size=3).map("".join),
        st.lists(patterns, min_size=2, max_size=3).map("|".join),
    )


PATTERNS = st.recursive(st.one_of(CHARACTERS, CLASSES, st.just("")), larger, max_leaves=8)
SHORT = ["".join(text) for length in range(3) for text in product(ALPHABET, repeat=length)]
TEXTS = st.text(st.sampled_from(ALPHABET), max_size=6)


@given(PATTERNS, st.lists(TEXTS, max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=300)
@example("(?:a|ab)(?:c|bcd)(?:d*)", ["abcd", "abcbcd"], Random(0))
def test_what_matches_is_what_re_matches(pattern, texts, random):
    """On all texts of up to two characters, some longer ones, and some that the automaton was led through."""
    try:
        wanted = re.compile(pattern, re.ASCII)
    except re.error as error:  # `[]` alone, where what followed was stripped away
        assert "unterminated" in str(error)
        with pytest.raises(ValueError, match="never closed"):
            parse(pattern)
        return
    automaton = compile_pattern(pattern)
    led = filter(None, (led_through(automaton, random) for _ in range(5)))
    for text in [*SHORT, *texts, *led]:
        assert automaton.matches(text) == bool(wanted.fullmatch(text)), text


def led_through(automaton, random) -> str | None:
    data, state = bytearray(), 0
    for _ in range(40):
        if automaton.accepting[state] and random.random() < 0.2:
            break
        row = automaton.table[state]
        after = np.flatnonzero(row >= 0).tolist()
        if not after:
            break
        data.append(random.choice(after))
        state = int(row[data[-1]])
    return data.decode() if automaton.accepting[state] else None


@given(PATTERNS)
@settings(max_examples=200)
def test_no_automaton_could_be_smaller(pattern):
    """Each state can be reached, leads to acceptance, and differs from every other by some text that follows."""
    try:
        automaton = compile_pattern(pattern)
    except ValueError:
        return
    n_states, accepting = len(automaton), automaton.accepting
    table = np.where(automaton.table < 0, n_states, automaton.table)  # what matches nothing is one more state
    table = np.vstack([table, np.full(256, n_states)])
    classes = np.append(accepting, False).astype(int)
    for _ in range(n_states + 1):  # Moore: as many classes in the end as there are states
        rows = np.column_stack([classes, classes[table]])
        classes = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    assert len({*classes.tolist()}) == (n_states + 1 if accepting.any() else 1)
    reached, new = {0}, [0]
    while new:
        fresh = {*table[new.pop()].tolist()} - reached
        reached |= fresh
        new += fresh
    assert reached >= {*range(n_states)} and (accepting.any() or n_states == 1)


def test_a_text_is_read_in_utf8_and_broken_bytes_lead_nowhere():
    any_text = compile_pattern(r"[\s\S]*")
    assert len(any_text) == 8  # between characters, and after the first bytes of those that take several
    for data in (b"\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"):
        assert any_text.walk(data) == -1, data  # no character; too long; a surrogate; beyond the last one
    assert any_text.walk("日".encode()) == 0 and any_text.walk("日".encode()[:2]) > 0
    assert not any_text.matches("\ud800") and any_text.matches("\U0010ffff")
    halfway = any_text.walk("日".encode()[:1])
    assert any_text.walk("日".encode()[1:], halfway) == 0 and any_text.walk(b"a", -1) == -1


def test_every_character_is_in_a_set_or_in_its_complement():
    digits = ((48, 57), (0x660, 0x669))
    others = all_but(digits)
    assert all_but(others) == digits
    assert sum(high + 1 - low for low, high in [*digits, *others]) == 0x110000 - 0x800


def test_the_date_is_drawn_as_a_chain():
    date = compile_pattern("[0-9]{4}-[01][0-9]")
    assert [date.edges(state) for state in range(len(date))] == [
        *([("[0-9]", state + 1)] for state in range(4)),
        [("-", 5)],
        [("[01]", 6)],
        [("[0-9]", 7)],
        [],
    ]
    assert date.accepting.tolist() == [False] * 7 + [True]
    assert compile_pattern("(?:a|b)*abb").edges(0) == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    ("chosen", "label"),
    [
        ([97], "a"),
        ([32], "·"),
        ([10, 32], "[<0x0A>·]"),
        ([48, 49, 50, 65, 66, 70], "[0-2ABF]"),
        ([*range(0x80, 0xC0)], "[<0x80>-<0xBF>]"),
        ([byte for byte in range(128) if byte != 34], '[^"]'),
        ([byte for byte in range(256) if byte not in (34, 35)], '[^"#] or [<0x80>-<0xFF>]'),
        ([*range(128)], "[<0x00>-<0x7F>]"),
    ],
)
def test_bytes_are_shown_as_classes(chosen, label):
    assert byte_label(chosen) == label


def test_what_matches_nothing_is_one_state_without_acceptance():
    nothing = compile_pattern(r"a[^\s\S]")
    assert len(nothing) == 1 and not nothing.accepting[0] and nothing.edges(0) == [] and not nothing.matches("a")
    assert compile_pattern("\ud800").edges(0) == []  # half a character is in no text


@pytest.mark.parametrize(
    ("pattern", "place", "message"),
    [
        ("ab(", 2, "never closed"),
        ("ab)", 2, "closes no group"),
        ("a[b", 1, "never closed"),
        ("a[", 1, "never closed"),
        ("a[]", 1, "never closed"),
        ("a[b-", 1, "never closed"),
        ("[z-a]", 1, "no range"),
        (r"[a-\d]", 1, "no range"),
        (r"[\w-z]", 1, "no range"),
        ("^a", 0, "no anchors"),
        ("a$", 1, "no anchors"),
        ("*", 0, "nothing before it"),
        ("a|+", 2, "nothing before it"),
        ("({2})", 1, "nothing before it"),
        ("a**", 2, "cannot follow a quantifier"),
        ("a+?", 2, "none is lazy or possessive"),
        ("a{", 1, "number of times"),
        ("a{}", 1, "number of times"),
        ("a{x}", 1, "number of times"),
        ("a{²}", 1, "number of times"),
        ("a{3,2}", 1, "at least 3 and at most 2"),
        ("a(?=b)", 1, "no lookaround"),
        ("(?P<n>a)", 0, "no lookaround, name"),
        ("(?i)a", 0, "flag"),
        (r"(a)\1", 3, "no backreference"),
        (r"\bword", 0, "no boundary"),
        ("a\\", 1, "no escape"),
        (r"\x4", 0, "no escape"),
        (r"\U00110000", 0, "no escape"),
        ("(" * 101 + ")" * 101, 100, "more than 100 groups"),
        ("(" * 100_000, 100, "more than 100 groups"),
    ],
)
def test_what_is_no_pattern_is_refused_with_its_place(pattern, place, message):
    with pytest.raises(ValueError, match=f"{message}.* at character {place} of the pattern") as caught:
        compile_pattern(pattern)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("pattern", [None, b"a", 3])
def test_a_pattern_is_a_text(pattern):
    with pytest.raises(ValueError, match="a pattern must be str"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "a{999999999}",
        "(?:(?:a{100}){100}){100}",
        "(?:(?:){1000}){1000}",
        "(?:a|b)*a(?:a|b){40}",
        "(?:a?){2000}",
        ".{0,400}x.{0,400}",
    ],
)
def test_what_would_not_end_is_refused_soon(pattern):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"too large: .*{MAX_STATES:,} states"):
        compile_pattern(pattern)
    assert time.perf_counter() - start < 20  # about one second


def test_groups_may_lie_a_hundred_deep():
    assert compile_pattern("(" * 100 + "a" + ")" * 100).matches("a")
