"""The corpus and its split, and the plays that are in it twice."""

import pytest

from course_lib.corpora import near_duplicates, shakespeare
from course_lib.corpora.duplicates import containment, jaccard
from course_lib.corpora.shakespeare import Work, fold_spelling

RENAMED = {
    "all_is_well_that_ends_well": "alls_well_that_ends_well",
    "anthonie_and_cleopatra": "antony_and_cleopatra",
    "comedy_of_errours": "comedy_of_errors",
    "loves_labour_lost": "loves_labours_lost",
    "midsummer_nights_dreame": "midsummer_nights_dream",
    "titus_andronicus": "tragedy_of_titus_andronicus",
    "twelfe-night": "twelfth_night",
}


@pytest.fixture(scope="module")
def works() -> list[Work]:
    return shakespeare.works()


@pytest.fixture(scope="module")
def pairs(works) -> set[tuple[int, int]]:
    """The places in `works` of each play's two editions, as a person pairs them."""
    place = {(work.edition, work.name): i for i, work in enumerate(works)}
    folios = [work.name for work in works if work.edition == "folio"]
    both = ((place["folio", name], place["modern", RENAMED.get(name, name)]) for name in folios)
    return {(min(pair), max(pair)) for pair in both}


def test_every_folio_play_is_found_to_be_a_modern_one_and_nothing_else_is(works, pairs):
    found = near_duplicates(map(fold_spelling, (work.text for work in works)), 0.25, n_words=3)
    assert {(i, j) for i, j, _ in found} == pairs and len(pairs) == 35
    for i, j, similarity in found[::5]:
        exact = jaccard(fold_spelling(works[i].text), fold_spelling(works[j].text), 3)
        assert abs(similarity - exact) < 4 * (exact * (1 - exact) / 256) ** 0.5


def test_the_usual_threshold_finds_none_of_them(works):
    assert near_duplicates(work.text for work in works) == []


def test_spelling_hides_half_of_what_the_editions_share(works, pairs):
    for i, j in sorted(pairs)[::5]:
        as_printed = jaccard(works[i].text, works[j].text, 3)
        folded = jaccard(fold_spelling(works[i].text), fold_spelling(works[j].text), 3)
        assert 0.2 < as_printed < 0.35 < folded < 0.65
        assert 1.6 < folded / as_printed < 2.2


def test_folding_by_hand():
    assert fold_spelling("Haue Ioy, olde Heyre, bee FAREWELL") == "hau ioi, old heir, be farewel"
    assert fold_spelling("have joy, old heire, be farewel") == "hau ioi, old heir, be farewel"


def test_no_near_duplicate_of_a_held_out_play_is_trained_on():
    training, held_out = shakespeare.split()
    texts = [fold_spelling(work.text) for work in held_out + training]
    assert near_duplicates(texts, 0.1, n_words=3) == []
    everything = "\n".join(texts[len(held_out) :])
    for play in texts[: len(held_out)]:
        assert containment(play, everything, 5) < 0.02  # turns of phrase
        # Runs of 13 words are what GPT-3's authors looked for (arXiv 2005.14165, appendix C). There is one: Twelfth Night and
        # Measure for Measure both begin "ACT I. SCENE I. An apartment in the Duke's palace. Enter Duke".
        assert containment(play, everything, 13) < 1e-4


def test_the_folio_would_have_given_the_held_out_plays_away(works):
    _, held_out = shakespeare.split()
    for play in held_out:
        folio = next(w for w in works if w.edition == "folio" and RENAMED.get(w.name, w.name) == play.name)
        assert containment(play.text, folio.text, 5) > 0.2
        assert containment(play.text, folio.text, 13) > 0.02


def test_the_held_out_plays_are_in_the_training_text_in_no_edition():
    training, held_out = shakespeare.split()
    assert {work.name for work in held_out} == set(shakespeare.HELD_OUT)
    assert {work.edition for work in training + held_out} == {"modern"}
    text = "\n".join(work.text for work in training)
    known = {line.strip() for line in text.splitlines()}
    for work in held_out:
        lines = {line.strip() for line in work.text.splitlines() if len(line.split()) >= 6}
        assert len(lines & known) < 0.01 * len(lines)


def test_the_split_is_of_the_size_that_is_said():
    training, held_out = (sum(len(work.text) for work in works) for works in shakespeare.split())
    assert 0.06 < held_out / (training + held_out) < 0.08
    assert len(shakespeare.works()) == 77
    assert sum(work.edition == "folio" for work in shakespeare.works()) == 35
