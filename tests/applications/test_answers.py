"""Answers from passages: what the prompt holds, what is cited, what is refused, and what happens with nonsense."""

import math

import pytest
import torch

from course_lib import storage
from course_lib.applications.answers import (
    Answer,
    Answers,
    best_threshold,
    cited,
    confidence,
    prompt,
    quote,
    refusals,
    write_answers,
)
from course_lib.applications.retrieval import Chunk, Search, SentenceEncoder, cut_all

COW = Chunk("farm", 1, 2, "The cow gave birth on Monday.\nThe calf is black.")
SEA = Chunk("sea", 5, 6, "The captain was called Ahab.\nHe sailed from Nantucket.")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(torch.device("cpu"), torch.float32)


def test_prompts_number_several_passages(smollm2):
    _, tokenizer = smollm2
    none, one, two = (tokenizer.decode(prompt(tokenizer, "Who?", p)) for p in ([], [COW], [COW, SEA]))
    assert none.endswith('It is "') and "passage" not in none
    assert one.endswith('According to the passage, it is "') and f"{COW.text}\n\nAccording" in one and "[1]" not in one
    assert f"[1] {COW.text}\n\n[2] {SEA.text}" in two
    for empty in ("", " "):
        with pytest.raises(ValueError, match="empty"):
            prompt(tokenizer, empty)
    with pytest.raises(ValueError, match="query must be str"):
        prompt(tokenizer, None)


def test_a_model_answers_from_its_passage_and_the_answer_can_be_opened(smollm2):
    questions = ["What was the captain called?", "When did the cow give birth?", "From where did he sail?"]
    answers = write_answers(*smollm2, questions, [[SEA], [COW], [COW, SEA]])
    assert "Ahab" in answers[0].text and "Monday" in answers[1].text
    assert [answer.source for answer in answers[:2]] == [0, 0]
    assert str(answers[1]).endswith("[farm, lines 1–2]")
    assert not any(mark in answer.text for answer in answers for mark in '"\n')


def test_answers_are_the_same_alone_and_in_a_batch(smollm2):
    questions = [f"What colour is the calf of cow number {i}?" for i in range(9)]
    together = write_answers(*smollm2, questions, [[COW] * (i % 3) for i in range(9)])
    alone = write_answers(*smollm2, questions[5:6], [[COW, COW]])
    assert together[5] == alone[0]


def test_passages_that_do_not_fit_are_left_out(smollm2):
    model, tokenizer = smollm2
    long = Chunk("long", 1, 1, "word " * 9000)
    answer = write_answers(model, tokenizer, ["When did the cow give birth?"], [[COW, long]], max_new_tokens=2)[0]
    assert answer.passages == (COW,)
    with pytest.raises(ValueError, match=r"the question has \d+ tokens"):
        write_answers(model, tokenizer, ["why " * 9000], [[]])


def test_nonsense_in_place_of_questions_is_refused(smollm2):
    with pytest.raises(ValueError, match="single string"):
        write_answers(*smollm2, "Who?", [[COW]])
    with pytest.raises(ValueError, match="1 questions need as many"):
        write_answers(*smollm2, ["Who?"], [])
    assert write_answers(*smollm2, [], []) == []


def test_the_source_is_where_the_words_stand():
    assert cited("Captain Ahab", [COW, SEA]) == 1
    assert cited("the", [COW, SEA]) == 0  # the first of equals
    assert cited("xyzzy", [COW, SEA]) is None and cited("", [COW]) is None and cited("cow", []) is None


def test_a_quotation_is_the_nearest_line(encoder):
    answer = quote(encoder, "Who commanded the ship?", [COW, SEA])
    assert answer == Answer("The captain was called Ahab.", (COW, SEA), 1)
    assert quote(encoder, "Who?", []).refused
    with pytest.raises(ValueError, match="question must be str"):
        quote(encoder, 3, [COW])


def test_a_threshold_parts_both_kinds():
    assert best_threshold([0.5, 0.7, 0.9], [0.1, 0.3]) == 0.5
    assert best_threshold([0.2, 0.7, 0.9], [0.1, 0.3, 0.6]) == 0.7
    assert best_threshold([0.5, 0.5], [0.5]) == 0.5  # nothing is refused
    assert refusals([0.2, 0.7, 0.9], [0.1, 0.3, 0.6], 0.65) == (3 / 4, 1)
    assert refusals([0.2], [0.1, 0.3], 0.15) == (1, 1 / 2)
    precision, recall = refusals([0.5], [0.6], 0.0)
    assert math.isnan(precision) and recall == 0


@pytest.mark.parametrize("wrong", [[], [math.nan], [math.inf], [[0.1]]])
def test_scores_that_are_none_have_no_threshold(wrong):
    for scores in ((wrong, [0.1]), ([0.1], wrong)):
        with pytest.raises(ValueError, match="finite scores"):
            best_threshold(*scores)
        with pytest.raises(ValueError, match="finite scores"):
            refusals(*scores, 0.5)


def test_what_nothing_fits_is_refused(smollm2, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "own_dir", lambda: tmp_path)
    search = Search(cut_all({"farm": COW.text, "sea": SEA.text}), encoder)
    near, far = "When did the cow give birth?", "How does a transistor switch?"
    limit = best_threshold([confidence(search, near)], [confidence(search, far)])
    answers = Answers(search, *smollm2, limit)
    assert answers(far) == Answer("") and str(answers(far)) == "I find no passage that answers this."
    assert "Monday" in answers(near).text and answers(near).passages == (Chunk("farm", 1, 2, COW.text),)
    with pytest.raises(ValueError, match="empty"):
        answers(" ")
