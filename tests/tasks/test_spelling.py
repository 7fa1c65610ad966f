"""Lines of the Folio and of the modern edition: those paired are the same line, and no held-out one is learned from."""

import pytest

from course_lib.corpora import shakespeare
from course_lib.corpora.shakespeare import HELD_OUT, Work, fold_spelling
from course_lib.tasks.spelling import Pair, pairs


def test_known_lines_are_paired():
    train, held_out = map(set, pairs())
    assert Pair("And let vs heare Barnardo speake of this", "And let us hear Bernardo speak of this") in train
    assert Pair("Breake vp this Capon", "Break up this capon") in train
    assert Pair("'Twas a rough Night", "'Twas a rough night") in held_out


def test_each_pair_is_word_for_word_and_differs():
    train, held_out = pairs()
    assert len(train) > 20_000 and len(held_out) > 1500
    for pair in train + held_out:
        old, modern = pair.old.split(), pair.modern.split()
        assert 4 <= len(old) == len(modern) <= 9 and old != modern
        assert [[sign in word for sign in ",;:?!"] for word in old] == [
            [sign in word for sign in ",;:?!"] for word in modern
        ]
        assert pair.modern[-1] not in ".,;:?!"


def test_no_held_out_line_is_learned_from_in_either_spelling():
    train, held_out = ({fold_spelling(line) for pair in part for line in pair} for part in pairs())
    assert not train & held_out


def test_held_out_are_lines_of_the_held_out_plays():
    text = " ".join(" ".join(work.text.split()) for work in shakespeare.works() if work.name in HELD_OUT)
    assert all(pair.modern in text for pair in pairs()[1])


def test_a_play_by_hand(monkeypatch):
    folio = "\n   Hor. Looke where it comes againe,\nEnter the Ghost.\nThat are so fortified\nWhat, is Horatio there\n"
    modern = (
        "\nHor.\nLook where it comes again.\nThat are so fortified\n[Looke where it comes]\nWhat is Horatio there?\n"
    )
    works = [Work("hamlet", "folio", folio), Work("hamlet", "modern", modern)]
    monkeypatch.setattr("course_lib.tasks.spelling.works", lambda: works)
    expected = [
        Pair("Looke where it comes againe", "Look where it comes again")
    ]  # not what is equal, or has another sign
    assert pairs.__wrapped__() == (expected, [])


@pytest.mark.parametrize("part", [0, 1])
def test_most_words_of_a_pair_are_one_word_in_two_spellings(part):
    folded = [
        (fold_spelling(a), fold_spelling(b))
        for p in pairs()[part]
        for a, b in zip(p.old.split(), p.modern.split(), strict=True)
    ]
    assert sum(a == b or a[0] == b[0] for a, b in folded) / len(folded) > 0.98
