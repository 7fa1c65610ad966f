"""Comparisons: what raters prefer, files that a crash, an editor or a full disk leaves, and agreement counted by hand."""

import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import krippendorff
import numpy as np
import pytest

try:
    import resource
except ImportError:
    resource = None

from course_lib.alignment import preferences
from course_lib.alignment.preferences import (
    Comparison,
    agreement,
    append_comparison,
    pool,
    rated_comparisons,
    read_comparisons,
    remove_last,
    self_agreement,
)
from course_lib.tasks.ratings import rate

ODD = 'a "quoted" line\nand\r another\u2028, 👍 é \0 <b>&amp; \ud800'


def comparison(choice: int | None = 0, **changes) -> Comparison:
    return replace(Comparison("Which?", "one", "two", choice, "Ann"), **changes)


def turned(one: Comparison) -> Comparison:
    """The same said of the same two, shown the other way round."""
    choice = None if one.choice is None else 1 - one.choice
    return replace(one, first=one.second, second=one.first, choice=choice)


# ---------------------------------------------------------------- comparisons


def test_a_comparison_knows_its_pair_and_what_was_chosen():
    left, right, skipped = comparison(0), comparison(1), comparison(None)
    assert (left.chosen, left.rejected, right.chosen, right.rejected) == ("one", "two", "two", "one")
    assert skipped.chosen is None and skipped.rejected is None
    assert left.pair == turned(right).pair != replace(left, prompt="Who?").pair


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"choice": 2}, "choice"),
        ({"choice": -1}, "choice"),
        ({"choice": True}, "choice"),
        ({"choice": float("nan")}, "choice"),
        ({"choice": "0"}, "choice"),
        ({"prompt": None}, "prompt"),
        ({"rater": 3}, "rater"),
        ({"first": "two"}, "the same text, 'two'"),
    ],
)
def test_what_is_no_comparison_is_named(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        comparison(**changes)


PAIRS = [("Speak.", "good", "bad"), ("Speak.", "ok", "lol"), ("Sing.", "a table", "a chair"), ("Sing.", "won", "love")]


def test_each_rater_prefers_what_he_rates_higher_and_none_chooses_between_equals():
    found = rated_comparisons(PAIRS, 10)
    assert {one.chosen for one in found if one.prompt == "Speak." and "bad" in one.pair} == {"good"}
    assert not [one for one in found if "a table" in one.pair]
    for prompt, a, b in PAIRS:
        raters = [f"rater {n}" for n in np.flatnonzero(rate(a) != rate(b))]
        assert sorted(one.rater for one in found if one.pair == (prompt, *sorted((a, b)))) == raters
    for one in found:
        rater = int(one.rater.removeprefix("rater "))
        assert rate(one.chosen)[rater] > rate(one.rejected)[rater]
    assert {one.chosen for one in found if "won" in one.pair} == {"won", "love"}  # people differ


def test_the_seed_draws_raters_and_order():
    pairs = [("?", f"good {n}", f"bad {n}") for n in range(300)]
    found = rated_comparisons(pairs, seed=1)
    assert found == rated_comparisons(pairs, seed=1) != rated_comparisons(pairs, seed=2)
    assert len(found) == 300 and {one.rater for one in found} == {f"rater {n}" for n in range(10)}
    assert 120 < sum(one.choice for one in found) < 180
    assert all(one.chosen.startswith("good") for one in found)


@pytest.mark.parametrize("n_raters", [0, 11, 1.5, True, float("nan"), None])
def test_a_number_of_raters_that_cannot_be_is_named(n_raters):
    with pytest.raises(ValueError, match="n_raters"):
        rated_comparisons(PAIRS, n_raters)


# ---------------------------------------------------------------- files


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "choices.jsonl"


def written(path: Path, *choices: int | None) -> list[Comparison]:
    comparisons = [comparison(choice, prompt=f"Question {n}?") for n, choice in enumerate(choices)]
    for one in comparisons:
        append_comparison(path, one)
    return comparisons


def test_what_is_appended_is_read_whatever_signs_are_in_it(path):
    for one in (comparison(), comparison(None, prompt=ODD, first=ODD, second="", rater=ODD)):
        append_comparison(path, one)
        assert read_comparisons(path)[-1] == one
    assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == 2
    assert json.loads(path.read_text().splitlines()[0]) == {
        "prompt": "Which?", "first": "one", "second": "two", "choice": 0, "rater": "Ann",
    }  # fmt: skip


def test_wherever_a_crash_cuts_the_last_line_the_others_are_kept_and_one_can_go_on(path):
    comparisons = written(path, 0, 1, None)
    data = path.read_bytes()
    start = data[:-1].rindex(b"\n") + 1
    for end in range(start, len(data) + 1):
        for zeros in (b"", b"\0" * 7) if end < len(data) - 1 else (b"",):
            path.write_bytes(data[:end] + zeros)
            whole = comparisons[: 3 if end >= len(data) - 1 else 2]
            assert read_comparisons(path) == whole
            append_comparison(path, comparisons[0])
            assert read_comparisons(path) == [*whole, comparisons[0]]


@pytest.mark.parametrize(
    "broken",
    [
        b"not JSON",
        b"",
        b'{"prompt": "a", "fir',
        b'["prompt"]',
        b'{"prompt": "a"}',
        b'{"prompt": "a", "first": "b", "second": "c", "choice": 3, "rater": "d"}',
        b'{"prompt": "a", "first": "b", "second": "c", "choice": NaN, "rater": "d"}',
        b'{"prompt": "a", "first": "b", "second": "c", "choice": 0, "rater": "d", "when": 1}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_broken_line_in_the_middle_is_named_with_its_file(path, broken):
    written(path, 0, 1)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + broken + b"\n" + second)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}, line 2, is no comparison"):
        read_comparisons(path)


def test_the_end_of_another_file_is_not_taken_for_a_crash(path):
    path.write_text("my notes")
    with pytest.raises(ValueError, match="line 1, is no comparison"):
        read_comparisons(path)
    append_comparison(path, comparison())
    assert path.read_text().startswith("my notes\n")


def test_the_last_is_taken_out(path):
    comparisons = written(path, 0, 1)
    data = path.read_bytes()
    for tail in (b"", b'{"prompt": "cut'):
        path.write_bytes(data + tail)
        remove_last(path)
        assert read_comparisons(path) == comparisons[:1]
    remove_last(path)
    with pytest.raises(ValueError, match="no comparison that could be taken out"):
        remove_last(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_or_is_interrupted_leaves_no_part_of_a_line(path, monkeypatch, error):
    comparisons = written(path, 0, 1)
    before = path.read_bytes()

    def fail(_):
        assert len(path.read_bytes()) > len(before)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(preferences.os, "fsync", fail)
        with pytest.raises(type(error)):
            append_comparison(path, comparison())
    assert path.read_bytes() == before
    append_comparison(path, comparison())
    assert read_comparisons(path) == [*comparisons, comparison()]


@pytest.mark.skipif(resource is None, reason="Windows has no limit on the size of a file")
def test_a_disk_that_is_full_in_the_middle_of_a_line_keeps_the_lines_before(path):
    comparisons = written(path, 0, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(OSError):
            append_comparison(path, comparison())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_comparisons(path) == comparisons and path.read_bytes().endswith(b"}\n")


def test_a_class_is_pooled_and_a_broken_file_is_named(tmp_path):
    files = [tmp_path / f"{name}.jsonl" for name in ("Ann", "Bob")]
    for file in files:
        append_comparison(file, comparison(rater=file.stem))
        append_comparison(file, turned(comparison(rater=file.stem)))
    assert [one.rater for one in pool(files)] == ["Ann", "Ann", "Bob", "Bob"]
    assert pool([]) == []
    files[1].write_text("?\n")
    with pytest.raises(ValueError, match=r"Bob\.jsonl, line 1"):
        pool(files)


def test_a_copy_or_two_people_of_one_name_are_not_pooled(tmp_path):
    files = [tmp_path / f"{number}.jsonl" for number in range(2)]
    append_comparison(files[0], comparison(0))
    append_comparison(files[1], comparison(None))
    with pytest.raises(ValueError, match=r"0\.jsonl and .*1\.jsonl both hold choices of 'Ann'"):
        pool(files)
    files[1].unlink()
    append_comparison(files[1], turned(comparison(0)))  # one person, who went on in another file
    assert self_agreement(pool(files)) == (1, 1)


# ---------------------------------------------------------------- agreement


def votes(*rows: str) -> list[Comparison]:
    """Row by row what a rater chose of each pair: 0, 1, or a dot for none; every other one is shown turned."""
    found = []
    for rater, row in enumerate(rows):
        for pair, said in enumerate(row):
            one = comparison(None if said == "." else int(said), prompt=f"{pair}?", rater=str(rater))
            found.append(turned(one) if (rater + pair) % 2 else one)
    return found


@pytest.mark.parametrize(
    ("rows", "kappa"),
    [
        (("0101", "0101"), 1.0),
        (("0000", "0000"), 1.0),
        (("0101", "1010"), -1.0),  # always apart: below chance
        (("0011", "0010"), 1 - 0.25 / 0.5),  # apart on one of four; by chance, on half
        (("0011.", "001.1", "....1"), 1.0),
        (("000", "001", "011"), 1 - (4 / 9) / 0.5),  # on the three pairs 0, ⅔ and ⅔ of two raters are apart
    ],
)
def test_kappa_by_hand(rows, kappa):
    assert agreement(votes(*rows)) == pytest.approx(kappa)


def test_kappa_is_one_number_however_the_two_were_shown_or_called():
    draw = random.Random(0)
    said = votes(*("".join(draw.choice("001.") for _ in range(60)) for _ in range(5)))
    names = {prompt: draw.sample(["one", "two"], 2) for prompt in {one.prompt for one in said}}
    other = [
        replace(one, first=names[one.prompt][one.first == "two"], second=names[one.prompt][one.second == "two"])
        for one in map(turned, said)
    ]
    assert agreement(other) == pytest.approx(agreement(said)) == pytest.approx(agreement(draw.sample(said, len(said))))


def test_kappa_is_krippendorffs_alpha_where_both_texts_are_chosen_as_often():
    draw = np.random.default_rng(0)
    table = draw.integers(0, 2, (4, 400))
    table[1:, :200] = table[0, :200]  # half of the pairs are clear
    table = np.concatenate([table, 1 - table], axis=1)
    said = votes(*("".join(map(str, row)) for row in table))
    peer = krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
    assert agreement(said) == pytest.approx(peer, abs=1e-3)


def test_the_first_of_repeated_choices_counts_between_raters():
    said = votes("0011", "0011")
    assert agreement([*said, *(replace(one, choice=1 - one.choice) for one in said)]) == 1.0


@pytest.mark.parametrize("rows", [(), ("0101",), ("01..", "..01"), ("....", "...."), ("0", ".")])
def test_without_a_pair_that_two_have_judged_there_is_no_agreement(rows):
    with pytest.raises(ValueError, match="no pair was judged by two raters"):
        agreement(votes(*rows))


def test_agreement_of_the_ten_raters_on_clear_and_on_unclear_words():
    clear = rated_comparisons([("?", f"good {n}", f"bad {n}") for n in range(20)], 10)
    unclear = rated_comparisons([("?", f"love {n}", f"won {n}") for n in range(20)], 10)
    assert agreement(clear) == 1.0
    assert -0.1 < agreement(unclear) < 0.6


def test_agreement_with_oneself_counts_repeats_of_the_same_rater():
    said = votes("0101", "0.10")
    assert self_agreement(said) == (0, 0)
    again = [turned(one) for one in said[:3]]  # the same of three
    other = [
        replace(said[3], choice=1 - said[3].choice),
        replace(said[0], choice=None),
        replace(said[4], rater="another"),
    ]
    assert self_agreement([*said, *again, *other]) == (3, 4)
    assert self_agreement([]) == (0, 0)


def test_a_file_that_may_not_be_written_is_said(path):
    written(path, 0)
    if os.name == "nt" or os.geteuid() == 0:
        path = path / "inside a file"
    else:
        path.chmod(0o400)
    with pytest.raises(OSError):
        append_comparison(path, comparison())
