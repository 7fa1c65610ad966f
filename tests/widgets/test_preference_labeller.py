"""PreferenceLabeller: every choice is in its file at once and only once, whatever happens."""

import base64
import multiprocessing
import sys
import threading
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from filelock import FileLock
from matplotlib.image import imread

from course_lib.alignment import preferences
from course_lib.alignment.preferences import read_comparisons, self_agreement
from course_lib.widgets import PreferenceLabeller
from course_lib.widgets.preference_labeller import widget as module

PAIRS = [(f"Question {n}?", f"good {n}", f"bad {n}") for n in range(20)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "choices.jsonl"


def judge(labeller: PreferenceLabeller, n: int = sys.maxsize) -> None:
    """Prefer the good one, `n` times or as long as there are pairs."""
    while n and (pair := labeller.result["pair"]):
        labeller.choose(pair["answers"].index(next(text for text in pair["answers"] if text.startswith("good"))))
        n -= 1


def shown(path: Path, **settings) -> list[tuple[str, str, str]]:
    """What a labeller shows, one after the other."""
    labeller = PreferenceLabeller(PAIRS, path, **settings)
    judge(labeller)
    return [(said.prompt, said.first, said.second) for said in labeller.comparisons]


def sent_by(labeller: PreferenceLabeller, request: dict) -> list[dict]:
    """Send what the browser sends, and return the answers."""
    answers = []
    labeller.send = lambda message, _buffers=None: answers.append(message)
    labeller._answer(labeller, request, [])
    return answers


# ---------------------------------------------------------------- what is shown


def test_every_pair_is_shown_and_a_share_of_them_later_the_other_way_round(path):
    showings = shown(path, repeats=0.25)
    times = Counter(prompt for prompt, *_ in showings)
    assert sorted(times) == sorted(prompt for prompt, *_ in PAIRS)
    assert sorted(times.values()) == [1] * 15 + [2] * 5
    for prompt in (prompt for prompt, n in times.items() if n == 2):
        (first, there), (again, here) = ((n, rest) for n, (name, *rest) in enumerate(showings) if name == prompt)
        assert there == here[::-1] and again - first > module.GAP
    lefts = [first.split()[0] for _, first, _ in showings]
    assert {"good", "bad"} == set(lefts)
    assert [prompt for prompt, *_ in showings[:20]] != [prompt for prompt, *_ in PAIRS]


def test_the_seed_draws_order_and_sides(tmp_path):
    one, same, other = (shown(tmp_path / f"{n}.jsonl", seed=seed) for n, seed in enumerate((1, 1, 2)))
    assert one == same != other


@pytest.mark.parametrize(("repeats", "n"), [(0, 20), (0.01, 20), (0.5, 30), (1, 40)])
def test_as_many_are_repeated_as_was_asked_for(path, repeats, n):
    assert len(shown(path, repeats=repeats)) == n


def test_one_pair_alone_can_be_repeated(path):
    labeller = PreferenceLabeller(PAIRS[:1], path, repeats=1)
    judge(labeller)
    assert self_agreement(read_comparisons(path)) == (1, 1) == (labeller.result["same"], labeller.result["repeats"])


# ---------------------------------------------------------------- the file


def test_every_choice_is_in_the_file_when_choose_returns(path):
    labeller = PreferenceLabeller(PAIRS, path, rater="Ann")
    for number, choice in enumerate((0, 1, None)):
        pair = labeller.result["pair"]
        labeller.choose(choice)
        kept = read_comparisons(path)
        assert len(kept) == number + 1 == labeller.result["done"]
        said = kept[-1]
        assert (said.prompt, [said.first, said.second], said.choice, said.rater) == (*pair.values(), choice, "Ann")
    assert labeller.comparisons == kept
    assert repr(labeller) == (
        "PreferenceLabeller: 3 of 24 comparisons made, 1 skipped; 0 of 0 repeats chosen alike; in choices.jsonl"
    )


def test_the_last_choices_are_taken_back_and_judged_anew(path):
    labeller = PreferenceLabeller(PAIRS, path)
    pairs = []
    for choice in (0, 1, None):
        pairs.append(labeller.result["pair"])
        labeller.choose(choice)
    for pair in pairs[:0:-1]:
        labeller.undo()
        assert labeller.result["pair"] == pair
    assert [said.choice for said in read_comparisons(path)] == [0]
    labeller.undo()
    with pytest.raises(ValueError, match="no comparison that could be taken out"):
        labeller.undo()


def test_a_new_labeller_goes_on_where_the_last_one_stopped(tmp_path, path):
    whole = shown(tmp_path / "whole.jsonl")
    for _ in range(8):
        judge(PreferenceLabeller(PAIRS, path), 3)
    done = PreferenceLabeller(PAIRS, str(path))
    assert [(said.prompt, said.first, said.second) for said in done.comparisons] == whole
    assert len({said.rater for said in done.comparisons}) == 1 and done.result["pair"] is None
    assert {one.rater for one in read_comparisons(tmp_path / "whole.jsonl")} != {done.rater}  # names are drawn
    with pytest.raises(ValueError, match="every pair has been judged"):
        done.choose(0)


def test_a_line_cut_by_a_crash_is_judged_anew(path):
    judge(PreferenceLabeller(PAIRS, path), 3)
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    labeller = PreferenceLabeller(PAIRS, path)
    assert labeller.result["done"] == 2
    judge(labeller, 1)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("pairs", "settings", "complaint"),
    [
        (PAIRS[::-1], {}, r"choices\.jsonl, line \d+, is a choice to which other pairs led"),
        (PAIRS[:1], {}, "other pairs"),
        (PAIRS, {"seed": 5}, "another seed"),
        (PAIRS, {"repeats": 1}, "share of repeats"),
        (PAIRS, {"rater": "Bob"}, "holds choices of 'Ann', not of 'Bob'"),
    ],
)
def test_a_file_of_others_is_named_and_left_as_it_is(path, pairs, settings, complaint):
    judge(PreferenceLabeller(PAIRS, path, rater="Ann"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=complaint):
        PreferenceLabeller(pairs, path, **settings)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_named(path):
    path.write_text('{"text": "To be"}\n')
    with pytest.raises(ValueError, match=r"choices\.jsonl, line 1, is no comparison"):
        PreferenceLabeller(PAIRS, path)


@pytest.mark.parametrize(
    ("pairs", "settings", "complaint"),
    [
        ([], {}, "pairs must hold a pair or more"),
        ([*PAIRS, PAIRS[3]], {}, r"pairs\[20\] is there twice, 'Question 3\?'"),
        ([PAIRS[0], ("a", "c", "b"), ("a", "b", "c")], {}, r"pairs\[2\] is there twice"),
        ([("a", "b", "b")], {}, r"pairs\[0\]: first and second are the same text, 'b'"),
        ([("a", "b")], {}, r"pairs\[0\] must be a prompt and two answers"),
        (["abc"], {}, r"pairs\[0\] must be a prompt and two answers, not 'abc'"),
        ([("a", "b", None)], {}, r"pairs\[0\]: second must be str"),
        (PAIRS, {"repeats": float("nan")}, "repeats must be at least 0 and at most 1, not nan"),
        (PAIRS, {"repeats": 1.5}, "repeats"),
        (PAIRS, {"repeats": None}, "repeats"),
        (PAIRS, {"seed": -1}, "seed"),
        (PAIRS, {"seed": 0.5}, "seed"),
        (PAIRS, {"rater": 7}, "rater"),
    ],
)
def test_what_cannot_be_labelled_is_named(path, pairs, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        PreferenceLabeller(pairs, path, **settings)
    assert not path.exists()


@pytest.mark.parametrize("choice", [2, -1, "0", True, float("nan")])
def test_a_choice_that_cannot_be_is_named_and_not_kept(path, choice):
    labeller = PreferenceLabeller(PAIRS, path)
    with pytest.raises(ValueError, match="choice"):
        labeller.choose(choice)
    assert not path.exists() and labeller.result["done"] == 0


def test_where_nothing_can_be_written_it_says_so_and_shows_the_same_pair(tmp_path):
    (tmp_path / "file").write_text("")
    labeller = PreferenceLabeller(PAIRS, tmp_path / "file" / "choices.jsonl")
    pair = labeller.result["pair"]
    (answer,) = sent_by(labeller, {"type": "choose", "number": 0, "choice": 0})
    assert answer["type"] == "error" and answer["message"].startswith("The choice was not kept: ")
    assert labeller.result["pair"] == pair and labeller.result["done"] == 0


def test_a_run_without_a_person_writes_nothing(tmp_path):
    labeller = PreferenceLabeller(PAIRS, tmp_path / "new" / "choices.jsonl")
    assert labeller.comparisons == [] and list(tmp_path.iterdir()) == []
    labeller.choose(0)
    assert len(read_comparisons(tmp_path / "new" / "choices.jsonl")) == 1


def test_a_full_disk_keeps_what_there_was(path, monkeypatch):
    labeller = PreferenceLabeller(PAIRS, path)
    judge(labeller, 2)
    before = path.read_bytes()

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(preferences.os, "fsync", fail)
        with pytest.raises(OSError, match=r"The choice was not kept: .*No space left"):
            labeller.choose(0)
    assert path.read_bytes() == before and labeller.result["done"] == 2
    labeller.choose(0)
    assert len(read_comparisons(path)) == 3


# ---------------------------------------------------------------- several writers, and interrupts


def test_two_labellers_on_one_file_do_not_overwrite_each_other(path):
    one, other = PreferenceLabeller(PAIRS, path, rater="Ann"), PreferenceLabeller(PAIRS, path, rater="Ann")
    judge(one, 3)
    with pytest.raises(ValueError, match=r"choices\.jsonl has changed meanwhile"):
        other.choose(0)
    assert other.comparisons == one.comparisons and other.result == one.result
    judge(other)
    assert len(read_comparisons(path)) == 24
    with pytest.raises(ValueError, match="has changed meanwhile"):
        one.undo()
    assert len(read_comparisons(path)) == 24


def test_a_writer_waits_for_another_and_gives_up_at_last(path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    labeller = PreferenceLabeller(PAIRS, path)
    lock = FileLock(path.with_name(".choices.jsonl.lock"), thread_local=False)
    with lock, pytest.raises(OSError, match="The choice was not kept: "):
        labeller.choose(0)
    monkeypatch.setattr(module, "PATIENCE", 5)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    labeller.choose(0)
    assert len(read_comparisons(path)) == 1


def judge_all(path: Path) -> None:
    """Judge until all is done, however often somebody else is first."""
    labeller = PreferenceLabeller(PAIRS, path, rater="Ann")
    while labeller.result["pair"]:
        try:
            judge(labeller, 1)
        except ValueError as error:
            assert "has changed meanwhile" in str(error)


def test_two_processes_on_one_file_leave_each_pair_judged_once(path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=judge_all, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    done = PreferenceLabeller(PAIRS, path, rater="Ann")
    assert done.result["pair"] is None and done.result["same"] == done.result["repeats"] == 4


def interrupt_at(n: int) -> None:
    """Raise KeyboardInterrupt before the `n`-th line of the labeller's or the file's code that runs from now on."""
    count = 0
    files = {preferences.__file__, module.__file__}

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            if count == n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file, between `open` and its `with`
@pytest.mark.parametrize("kind", ["choose", "undo"])
def test_an_interrupt_anywhere_loses_no_earlier_choice_and_none_is_kept_twice(tmp_path, kind):
    outcomes = Counter()
    n = 0
    while outcomes["done"] == 0:
        n += 1
        path = tmp_path / f"{n}.jsonl"
        labeller = PreferenceLabeller(PAIRS, path, rater="Ann")
        judge(labeller, 3)
        before = read_comparisons(path)
        try:
            interrupt_at(n)
            (answer,) = sent_by(labeller, {"type": kind, "number": 3, "choice": 1})
        finally:
            sys.settrace(None)
        outcomes[answer["type"]] += 1
        after = read_comparisons(path)
        assert after[:2] == before[:2] and len(after) in ((3, 4) if kind == "choose" else (2, 3))
        for _ in range(3):  # the first may only show what the file holds
            sent_by(labeller, {"type": "choose", "number": labeller.result["done"], "choice": 0})
        assert labeller.comparisons == read_comparisons(path) == PreferenceLabeller(PAIRS, path).comparisons
        assert len(labeller.comparisons) >= len(after) + 2 and labeller.result["done"] == len(labeller.comparisons)
    assert outcomes["error"] > 20


def test_a_request_for_a_pair_that_is_no_longer_shown_is_passed_over(path):
    labeller = PreferenceLabeller(PAIRS, path)
    for _ in range(2):  # two views of one widget, or a key pressed twice
        assert sent_by(labeller, {"type": "choose", "number": 0, "choice": 0}) == [{"type": "done"}]
    assert len(read_comparisons(path)) == 1
    assert sent_by(labeller, {"type": "undo", "number": 0, "choice": None}) == [{"type": "done"}]
    assert len(read_comparisons(path)) == 1


# ---------------------------------------------------------------- without a kernel

ODD = "<b>bold</b> &amp; `code` $x$ 👩‍🚀 漢字\n\tשלום \u202e \0 \u2028 " * 3


@pytest.mark.parametrize("text", ["", "One line.", ODD, "word " * 9999, "x" * 99_999, "\n" * 500], ids=lambda t: t[:9])
def test_a_saved_notebook_shows_a_picture_of_any_text_and_a_line(path, text):
    labeller = PreferenceLabeller([(text, text + "1", text)], path, repeats=0)
    for _ in range(2):
        data, _ = labeller._repr_mimebundle_()
        png = base64.b64decode(data["image/png"])
        height, width, _ = imread(BytesIO(png)).shape
        assert len(png) < 250_000 and width == 1100 and height < 800
        assert data["text/plain"].startswith("PreferenceLabeller: ")
        labeller.result["pair"] and labeller.choose(None)
