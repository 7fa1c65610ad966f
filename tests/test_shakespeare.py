"""The corpus and its split."""

from course_lib import shakespeare


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
