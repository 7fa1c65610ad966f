"""Near duplicates, against the sets of their runs of words."""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.corpora import near_duplicates
from course_lib.corpora.duplicates import containment, jaccard, minhash

WORDS = st.lists(st.sampled_from(["to", "be", "or", "not", "that", "is"]), max_size=30).map(" ".join)


def runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} if n else set()


@given(WORDS, WORDS, st.integers(1, 5))
def test_similarity_is_that_of_the_sets_of_runs(first, second, n):
    ours, theirs = runs(first, n), runs(second, n)
    assert jaccard(first, second, n) == pytest.approx(len(ours & theirs) / max(len(ours | theirs), 1))
    assert containment(first, second, n) == pytest.approx(len(ours & theirs) / max(len(ours), 1))


def test_case_and_punctuation_do_not_count_but_order_does():
    assert jaccard("To be, or not to be!", "to be or NOT (to be)", 3) == 1
    assert jaccard("a b c d", "d c b a", 2) == 0


def alike(similarity: float, n: int = 3000) -> tuple[str, str]:
    """Return two texts of single words of which that share is in both."""
    n_common = round(n * similarity)
    n_first = n_common + (n - n_common) // 2
    return " ".join(f"w{i}" for i in range(n_first)), " ".join(f"w{i}" for i in [*range(n_common), *range(n_first, n)])


@pytest.mark.parametrize("similarity", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_signatures_agree_as_often_as_texts_are_alike(similarity):
    first, second = alike(similarity)
    assert jaccard(first, second, 1) == pytest.approx(similarity)
    agreed = (minhash(first, 1) == minhash(second, 1)).mean()
    assert abs(agreed - similarity) <= 4 * (similarity * (1 - similarity) / 256) ** 0.5


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_pairs_above_the_threshold_are_found_and_those_below_are_not(threshold):
    texts = []
    for number in range(20):
        close, far = alike(min(threshold + 0.15, 1), 400), alike(max(threshold - 0.15, 0), 400)
        texts += [re.sub("w", f"{kind}{number}w", text) for kind, pair in (("a", close), ("b", far)) for text in pair]
    found = {(i, j) for i, j, _ in near_duplicates(texts, threshold, n_words=1)}
    assert found == {(i, i + 1) for i in range(0, 80, 4)}


def test_texts_without_words_are_no_copies_of_each_other():
    texts = ["", "...", "one", "One!", "two"]
    assert near_duplicates(texts) == [(2, 3, 1.0)]
    assert near_duplicates([]) == []
    for threshold in (0, 1.1):
        with pytest.raises(ValueError, match="threshold must be positive and at most 1"):
            near_duplicates(texts, threshold)


def test_signatures_are_the_same_in_every_process():
    code = "from course_lib.corpora.duplicates import minhash; print(minhash('to be or not to be').tolist())"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert json.loads(printed.stdout) == minhash("to be or not to be").tolist()
