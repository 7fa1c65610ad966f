"""Token shards, batches and packing."""

import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.corpora import Batches, TokenShards, write_shards
from course_lib.corpora.shards import permuted
from course_lib.tokenization import train_bpe

TEXTS = ["To be, or not to be, that is the question.", "", "Words, words, words.", "¡Olé! 🐎"]
TOKENIZER = train_bpe(TEXTS, 270)


@pytest.fixture
def shards(tmp_path) -> TokenShards:
    return write_shards(TEXTS * 5, TOKENIZER, tmp_path / "corpus", shard_tokens=37)


def test_shards_hold_the_texts_one_behind_the_other(shards, tmp_path):
    end = TOKENIZER.special_tokens["<|endoftext|>"]
    expected = [token for text in TEXTS * 5 for token in [*TOKENIZER.encode(text), end]]
    assert shards[:].tolist() == expected and len(shards) == len(expected)
    assert len(list((tmp_path / "corpus").glob("*.bin"))) > 3
    assert (shards.vocab_size, shards.n_texts) == (270, 20)
    assert shards.n_bytes == sum(len(text.encode()) for text in TEXTS * 5)
    again = TokenShards(tmp_path / "corpus")
    for start, stop in [(0, 1), (36, 38), (30, 120), (5, 5), (-3, None), (100, 10**9)]:
        assert again[start:stop].tolist() == expected[start:stop]


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    class Large:
        vocab_size, end_tokens, vocab, special_tokens = 70_000, ("<end>",), {}, {"<end>": 69_999}

        def encode(self, text):
            return [65_536 + len(text)]

    assert write_shards(["a", "bc"], Large(), tmp_path / "large")[:].tolist() == [65_537, 69_999, 65_538, 69_999]


def test_a_writer_that_fails_leaves_nothing_but_its_lock(tmp_path):
    def broken():
        yield "some text"
        raise OSError("the disk went away")

    for texts, error in ((broken(), OSError), ([], ValueError)):
        with pytest.raises(error):
            write_shards(texts, TOKENIZER, tmp_path / "corpus")
        assert {path.name for path in tmp_path.iterdir()} <= {".corpus.lock"}


KILLED_WRITER = """
import sys
from course_lib.corpora import write_shards
from course_lib.tokenization import train_bpe

def texts():
    for _ in range(100):
        yield "To be, or not to be"
    print("in the middle", flush=True)
    sys.stdin.read()  # to the end of this process

write_shards(texts(), train_bpe(["to be"], 260), sys.argv[1], shard_tokens=50)
"""


def test_a_killed_writer_leaves_no_folder_and_the_next_one_clears_up(tmp_path):
    corpus = tmp_path / "corpus"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, corpus], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "in the middle\n"
        writer.kill()
    assert not corpus.exists()
    assert len(list(tmp_path.glob(".corpus.partial-*"))) == 1
    assert write_shards(TEXTS, TOKENIZER, corpus).n_texts == 4
    assert not list(tmp_path.glob(".corpus.partial-*"))


def test_of_two_writers_the_second_waits_and_leaves_what_the_first_wrote(tmp_path):
    first_is_writing, errors = threading.Event(), []

    def texts():
        first_is_writing.set()
        second.start()
        yield from TEXTS

    def come_second():
        assert first_is_writing.is_set()
        try:
            write_shards(["another text"], TOKENIZER, tmp_path / "corpus")
        except FileExistsError as error:
            errors.append(error)

    second = threading.Thread(target=come_second)
    write_shards(texts(), TOKENIZER, tmp_path / "corpus")
    second.join()
    assert [str(error) for error in errors] == [
        f"{tmp_path / 'corpus'} exists; TokenShards(folder) reads what is there"
    ]
    assert TokenShards(tmp_path / "corpus").n_texts == 4


def test_the_corpus_is_never_in_memory(tmp_path):
    class Ones:
        vocab_size, end_tokens, vocab, special_tokens = 9, ("e",), {"e": 8}, {}
        tokens = np.ones(999_999, np.uint16)

        def encode(self, text):
            return Tokens(self.tokens)

    class Tokens(np.ndarray):  # so that the test spends no time in lists
        def __new__(cls, tokens):
            return tokens.view(cls)

        def __add__(self, end):
            return np.append(self, np.uint16(end))

    tracemalloc.start()
    try:
        shards = write_shards(("x" for _ in range(150)), Ones(), tmp_path / "large", shard_tokens=40_000_000)
        batches = Batches(shards, 1024, 8)
        for step in range(100):
            batches[step]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(shards) == 150_000_000  # 300 MB
    assert peak < 50e6


# ---------------------------------------------------------------- batches


@given(st.integers(1, 300), st.integers(0, 3))
def test_a_permutation_permutes(n, key):
    assert sorted(permuted(place, n, (0, key)) for place in range(n)) == list(range(n))


def test_permutations_differ_and_look_random():
    orders = np.array([[permuted(place, 500, (0, key)) for place in range(500)] for key in range(40)])
    assert len({tuple(order) for order in orders}) == 40
    correlations = np.corrcoef(np.vstack([orders, np.arange(500)]))
    assert abs(correlations[np.triu_indices(41, 1)]).max() < 0.25  # of 820 pairs; the deviation of one is 0.045


@pytest.mark.parametrize("n", [2, 3, 5, 7, 12])
def test_few_windows_come_in_every_order_alike(n):
    keys = 2000
    orders = np.array([[permuted(place, n, (7, key)) for place in range(n)] for key in range(keys)])
    counts = np.array([np.bincount(column, minlength=n) for column in orders.T])  # how often a place held a number
    deviation = (keys / n * (1 - 1 / n)) ** 0.5
    assert abs(counts - keys / n).max() < 5 * deviation


def test_an_epoch_takes_every_window_once(shards):
    batches, text = Batches(shards, 8, 3), shards[:].tolist()
    n = batches.n_windows
    assert n == len(shards) // 8 - 1
    taken = [row.tolist() for step in range(n) for row in torch.hstack([batches[step][0], batches[step][1][:, -1:]])]
    epochs = [taken[epoch * n : (epoch + 1) * n] for epoch in range(3)]
    for epoch in epochs:
        cuts = [sorted(text[shift + 8 * i : shift + 8 * i + 9] for i in range(n)) for shift in range(8)]
        assert sorted(epoch) in cuts
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert len({tuple(map(tuple, sorted(epoch))) for epoch in epochs}) > 1  # they are cut in different places


def test_a_step_needs_no_step_before_it(shards):
    in_order = Batches(shards, 8, 5, seed=2)
    steps = [in_order[step][0] for step in range(40)]
    assert torch.equal(Batches(shards, 8, 5, seed=np.int64(2))[39][0], steps[39])
    assert torch.equal(in_order[np.int64(17)][0], steps[17])


def test_targets_follow_their_ids(shards):
    ids, targets = Batches(shards, 8, 6)[4]
    assert ids.dtype == targets.dtype == torch.int64 and ids.shape == targets.shape == (6, 8)
    assert torch.equal(ids[:, 1:], targets[:, :-1])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_the_same_batch(shards, world_size):
    whole = Batches(shards, 8, 4, seed=3)
    ranks = [Batches(shards, 8, 4, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 50, 10**12):
        together = [torch.cat(parts) for parts in zip(*(share[step] for share in ranks), strict=True)]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, whole[step], strict=True))


def test_seeds_give_other_orders_and_errors_say_what_is_wrong(shards):
    assert not torch.equal(Batches(shards, 8, 6, seed=0)[0][0], Batches(shards, 8, 6, seed=1)[0][0])
    with pytest.raises(ValueError, match="3 sequences cannot be shared out evenly over 2"):
        Batches(shards, 8, 3, world_size=2)
    with pytest.raises(ValueError, match="do not make two windows of 300"):
        Batches(shards, 300, 3)
    with pytest.raises(IndexError):
        Batches(shards, 8, 3)[-1]


@pytest.mark.parametrize("context_length", [7, 16, 1000])
def test_windows_make_every_token_a_target_once(shards, context_length):
    pairs = list(shards.windows(context_length))
    assert torch.cat([targets for _, targets in pairs]).tolist() == shards[1:].tolist()
    assert torch.cat([ids for ids, _ in pairs]).tolist() == shards[:-1].tolist()
