"""Sources of texts, quality rules and near-duplicates."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from course_lib import assets
from course_lib.corpora import near_duplicates, quality_failures, shakespeare
from course_lib.corpora.readers import QUALITY_RULES, containment, jaccard, measure_quality, minhash, read_texts

TEXTS = ["one\n", "zwei — drei", "", "a\u2028b \u0085 c", "🐎 \\n"]


def json_lines(texts) -> bytes:
    return b"".join(json.dumps({"id": i, "text": text}).encode() + b"\n" for i, text in enumerate(texts))


# ---------------------------------------------------------------- sources


def test_every_kind_of_file_is_read_in_order_of_the_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_bytes(json_lines(TEXTS) + b'\r\n{"text": null}\r\n{"text": "last"}')
    frames = [zstandard.compress(json_lines([text])) for text in TEXTS]  # a file may have many frames
    (tmp_path / "b" / "x.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / "b" / "y.txt").write_bytes("\ufeffwith a mark\r\n".encode())
    table = pa.table({"id": range(6), "text": [*TEXTS, None]})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=2)
    for passed_over in ("README.md", ".hidden.txt", "d.json"):
        (tmp_path / passed_over).write_text("no")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "e.txt").write_text("no")
    assert list(read_texts(tmp_path)) == [*TEXTS, "last", *TEXTS, "with a mark\n", *TEXTS]


def test_a_large_file_is_never_in_memory(tmp_path):
    line = json_lines(["x" * 10_000])
    (tmp_path / "a.jsonl").write_bytes(line * 3000)  # 30 MB each
    with zstandard.open(tmp_path / "b.jsonl.zst", "wb") as file:
        file.write(line * 3000)
    noise = np.random.default_rng(0).integers(0, 2**31, (128, 1000))
    table = pa.table({"text": [str(row.tolist()) * 40 for row in noise]})  # 128 groups of half a megabyte
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=1)
    del table

    tracemalloc.start()
    try:
        texts = read_texts(tmp_path)
        assert sum(len(text) for text in islice(texts, 6000)) == 60_000_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6
    before, largest = pa.total_allocated_bytes(), 0
    for _ in texts:
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert 0 < largest < 20e6  # of 60


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"content": "y"}\n', r"a\.jsonl, line 2, should be .*content"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y', r"a\.jsonl, line 2"),
        ("a.jsonl", b'["text"]', r"a\.jsonl, line 1"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl, line 1"),
        ("a.txt", b"\xff\xfe", r"a\.txt is not UTF-8"),
        ("a.md", b"no text", r"holds no file that ends in \.txt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        list(read_texts(tmp_path))


def test_a_parquet_file_without_texts_names_its_columns(tmp_path):
    parquet.write_table(pa.table({"id": [1], "content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column 'text', but id, content"):
        list(read_texts(tmp_path))


@pytest.mark.parametrize(("ending", "module"), [("jsonl.zst", "zstandard"), ("parquet", "pyarrow.parquet")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, ending, module):
    (tmp_path / f"a.{ending}").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"course-lib\[data\]'.*{module.split('.')[0]}`"):
        list(read_texts(tmp_path))


STREAMED = """
import sys
from course_lib.assets import AssetError
from course_lib.corpora.readers import stream_hub
print([text for text in stream_hub(sys.argv[1])])
try:
    stream_hub("no-one/no-such-data-set")
except AssetError as error:
    print(error)
"""


def test_a_data_set_is_streamed_and_without_a_hub_an_error_says_so(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(json_lines(["one", "two"]))
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", STREAMED, tmp_path / "set"]
    printed = subprocess.run(command, env=offline, check=True, capture_output=True, text=True).stdout.splitlines()
    assert printed[0] == "['one', 'two']"
    assert "'no-one/no-such-data-set' could not be streamed" in printed[1] and "read_texts" in printed[1]


# ---------------------------------------------------------------- quality

PROSE = """The ship lay at anchor in the bay, and nobody had come ashore for a week. Old Tom watched her from the wall.

"They have the fever," said his wife. Was she right? He thought of the year when it took half of the village, and went to
see what could be done. That night a boat left the harbour with bread, water and a doctor who did not ask to be paid."""


def test_prose_breaks_no_rule_and_every_rule_has_its_own_name():
    assert quality_failures(PROSE) == []
    assert len({rule.name for rule in QUALITY_RULES}) == len(QUALITY_RULES) == 23


MENU = "\n".join(f"- Buy the {name} that you have and want to be. " for name in "abcdefghijklmn")
REPEATED = "the offer that you have to see and be of. "


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (" ".join(PROSE.split()[:49]), {"number of words"}),
        (f"{PROSE}\n" + "# " * 15, {"hashes or ellipses per word"}),
        (MENU, {"lines that begin with a bullet"}),
        (PROSE.replace(". ", "...\n"), {"lines that end in an ellipsis"}),
        (f"{PROSE} " + " ".join(map(str, range(100, 130))), {"words with a letter"}),
        (re.sub(r"\b(the|be|to|of|and|that|have|with)\b", "der", PROSE.lower()), {"different English stop words"}),
        (f"{PROSE} lorem ipsum", {"“lorem ipsum”"}),
        (f"{PROSE} if (x) {{ }}", {"curly brackets"}),
        (PROSE.translate(str.maketrans(".?!", ",,,")), {"sentences"}),
        (f"{PROSE}\n" + "Home\n" * 4, {"repeated lines"}),
        (" ".join("a" if len(word) < 9 else word for word in PROSE.split()), {"mean length of a word"}),
    ],
)
def test_a_text_breaks_the_rule_that_it_was_made_to_break(text, broken):
    assert broken <= set(quality_failures(text))


def test_a_text_at_the_limit_passes():
    assert "number of words" not in quality_failures(" ".join(PROSE.split()[:50]))
    five, four = "Go there. See it! Is it good? (It is.) Stay.", "Go there, see it! Is it good? (It is.) Stay."
    assert "sentences" not in quality_failures(five) and "sentences" in quality_failures(four)


def test_repetition_by_hand():
    found = measure_quality("aa b ccc d e\n\naa b ccc d e\n\nf")  # 8 letters in each of the two, and one more
    assert found["repeated lines"] == found["repeated paragraphs"] == pytest.approx(1 / 3)
    assert found["characters in repeated lines"] == pytest.approx(12 / 25)  # here with the spaces in them
    assert found["characters in the commonest 2 words in a row"] == pytest.approx(
        2 * 3 / 17
    )  # "aa b", the first of four
    assert found["characters in the commonest 3 words in a row"] == pytest.approx(2 * 6 / 17)
    assert found["characters in repeated runs of 5 words"] == pytest.approx(8 / 17)
    assert found["characters in repeated runs of 6 words"] == 0
    overlapping = measure_quality("x " * 12)
    assert overlapping["characters in repeated runs of 10 words"] == pytest.approx(11 / 12)


def test_an_empty_text_breaks_rules_and_divides_by_nothing():
    assert "number of words" in quality_failures("")
    assert all(np.isfinite(list(measure_quality("").values())))


def test_rules_for_the_web_throw_out_a_list_of_files_and_plays_for_a_brace():
    folder = assets.fetch("shakespeare")
    assert {"words with a letter", "repeated lines"} < set(quality_failures((folder / "metadata.txt").read_text()))
    texts = {(work.edition, work.name): work.text for work in shakespeare.works()}
    assert sum("{" in text or "}" in text for text in texts.values()) == 10
    assert quality_failures(texts["modern", "as_you_like_it"]) == ["curly brackets"]  # "{CELIA and ROSALIND retire.]"
    assert "repeated lines" in quality_failures(texts["modern", "merry_wives_of_windsor"])  # with the speakers' names
    for fit in (("modern", "sonnets"), ("modern", "macbeth"), ("folio", "macbeth")):
        assert quality_failures(texts[fit]) == []


# ---------------------------------------------------------------- duplicates

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
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            near_duplicates(texts, threshold)


def test_signatures_are_the_same_in_every_process():
    code = "from course_lib.corpora.readers import minhash; print(minhash('to be or not to be').tolist())"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert json.loads(printed.stdout) == minhash("to be or not to be").tolist()
