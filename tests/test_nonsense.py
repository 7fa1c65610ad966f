"""Nonsense in a configuration or an argument: an error that names it, where it is given, or else a result that is right."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.attention import MultiHeadAttention, RopeScaling
from course_lib.architecture.ngrams import NgramEmbedding
from course_lib.corpora import Batches, TokenArray, near_duplicates, write_shards
from course_lib.corpora.packing import pack
from course_lib.inference import Sampling, generate
from course_lib.tokenization import Tokenizer, train_bpe

TINY = TransformerConfig(vocab_size=9, d_model=8, n_layers=2, n_heads=2, d_ff=8, context_length=6)
MODEL = TransformerLM(TINY).eval()
TEXTS = ["to be or not to be", "that is the question"]
TOKENIZER = train_bpe(TEXTS, 260)

HUGE = [10**6, 2**63, 10**400, 1e38, 1e300, math.inf]
WRONG = [None, True, "2", "rope", [2], 2.5, math.nan, -math.inf, -1, -0.5, 0, 0.0, 5e-324, 1e-45, 1e-30, *HUGE]
SMALL = [1, 2, 3, 4, 6, 1.0, 0.5, np.int64(2), np.float32(0.5)]


@given(st.sampled_from([field.name for field in fields(TransformerConfig)]), st.data())
@settings(max_examples=400)
def test_a_config_is_refused_by_name_or_makes_a_model_whose_logits_are_numbers(field, data):
    choices = {
        "positions": ["rope", "learned", "sinusoidal", "alibi", "none"],
        "rope_scaling": [RopeScaling(1e300, 1e-300, 1e300, 2**60), RopeScaling(1, 1, 4, 1)],
        "norm": ["layernorm"],
        "norm_position": ["post", "output", "sandwich"],
        "feed_forward": ["relu", "relu2", "gelu", "geglu"],
        "qk_norm": ["head", "projection"],
    }
    other = data.draw(st.sampled_from([name for name in choices if name != field]))
    changes = {other: data.draw(st.sampled_from(choices[other]))}
    value = data.draw(st.sampled_from([*WRONG, *SMALL, *choices.get(field, [])]))
    sizes = {"vocab_size", "d_model", "n_layers", "n_heads", "d_ff", "context_length", "n_kv_heads", "d_head"}
    if field in sizes and value in (10**6, 1e38):  # a model of that size is somebody's right
        return
    try:
        model = TransformerLM(replace(TINY, **{field: value}, **changes)).eval()
    except ValueError as error:
        assert any(word in str(error) for word in (field, "heads", "d_head", "d_model")), error
        return
    ids = torch.arange(min(model.config.context_length, 6))[None] % model.config.vocab_size
    assert model(ids).isfinite().all()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda **change: replace(TINY, **change), {"norm_eps": math.nan}),
        (lambda **change: replace(TINY, **change), {"dropout": 2}),
        (lambda **change: replace(TINY, **change), {"n_layers": True}),
        (lambda **change: replace(TINY, **change), {"d_head": 3}),
        (lambda **change: replace(TINY, positions="sinusoidal", d_head=2, **change), {"d_model": 7}),
        (lambda **change: replace(RopeScaling(8.0, 1.0, 4.0, 64), **change), {"factor": math.nan}),
        (lambda **change: replace(RopeScaling(8.0, 1.0, 4.0, 64), **change), {"low_turns": 4.0}),
        (lambda **change: MultiHeadAttention(8, **change), {"n_heads": 0}),
        (lambda **change: NgramEmbedding(d_model=8, **change), {"n_rows": 0}),
        (lambda **change: Sampling(**change), {"temperature": math.nan}),
        (lambda **change: Sampling(**change), {"temperature": math.inf}),
        (lambda **change: Tokenizer({"a": 0}, [], {}, **change), {"words": "(a)b"}),
        (lambda **change: Tokenizer({"a": 0}, [], {}, **change), {"words": r"\p{L}*"}),
        (lambda **change: Tokenizer({"a": 0}, [], {}, **change), {"words": "("}),
        (lambda **change: Tokenizer({"a": 0}, [], {}, **change), {"chat_template": 3}),
        (lambda id: Tokenizer({"a": id}, [], {}), {"id": -1}),
        (lambda id: Tokenizer({"a": id}, [], {}), {"id": 1.5}),
    ],
)
def test_what_went_through_is_named(make, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)


LOGITS = torch.tensor([[0.5, -3.0, 2.0, 2.0], [1e30, -1e30, 0.0, 5.0]])


@given(*[st.sampled_from([*WRONG, *SMALL])] * 4)
@example(1e-45, None, None, 1e-30)
def test_sampling_is_refused_or_gives_a_distribution(temperature, top_k, top_p, min_p):
    try:
        sampling = Sampling(temperature, top_k, top_p, min_p)
    except ValueError as error:
        assert str(error).split()[0] in vars(Sampling())
        return
    probabilities = sampling.probabilities(LOGITS)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_are_said_to_be(wrong, temperature):
    for logits in ([0.0, wrong, 2.0], [wrong] * 3):
        with pytest.raises(FloatingPointError, match="the model's logits are no numbers"):
            Sampling(temperature).draw(torch.tensor(logits))


def batch(context_length=3, batch_size=2, seed=0, rank=0, world_size=1):
    return Batches(
        TokenArray(np.arange(20), 20), context_length, batch_size, seed=seed, rank=rank, world_size=world_size
    )


NUMBERS = {  # what each call does with a number, and whether it may be 0
    "shard_tokens": lambda n, folder: len(write_shards(TEXTS, TOKENIZER, folder / repr(n), shard_tokens=n)),
    "context_length": lambda n, _: batch(context_length=n)[1],
    "batch_size": lambda n, _: batch(batch_size=n)[1],
    "seed": lambda n, _: batch(seed=n)[1],
    "rank": lambda n, _: batch(rank=n)[1],
    "world_size": lambda n, _: batch(world_size=n)[1],
    "context_length of windows": lambda n, _: list(TokenArray(np.arange(20), 20).windows(n)),
    "context_length of pack": lambda n, _: pack([[1, 2, 3], [4]], n),
    "pad_id": lambda n, _: pack([[1, 2, 3], [4]], 4, n),
    "vocab_size": lambda n, _: train_bpe(TEXTS, n),
    "threshold": lambda n, _: near_duplicates(TEXTS, n),
    "n_words": lambda n, _: near_duplicates(TEXTS, n_words=n),
    "max_new_tokens": lambda n, _: list(generate(MODEL, [1, 2], n)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_is_refused_by_name(name, tmp_path):
    for wrong in (None, True, "2", [2], math.nan, math.inf, -math.inf, -1, -0.5):
        with pytest.raises(ValueError, match=name.split()[0]):
            NUMBERS[name](wrong, tmp_path)
    for doubtful in (0, 1, 2, 5, 10**5, 2.5, 10**400):
        try:
            NUMBERS[name](doubtful, tmp_path)
        except ValueError as error:
            assert name.split()[0] in str(error) or "windows" in str(error) or "evenly" in str(error)


def test_texts_are_several_and_texts(tmp_path):
    for call in (lambda texts: write_shards(texts, TOKENIZER, tmp_path / "a"), near_duplicates):
        with pytest.raises(ValueError, match="texts should hold strings, but is the single string 'hello world'"):
            call("hello world")
    with pytest.raises(ValueError, match="text 1 must be str, not None"):
        write_shards(["a", None], TOKENIZER, tmp_path / "a")
    with pytest.raises(ValueError, match="special token must not be empty"):
        train_bpe(TEXTS, 300, special_tokens=["<end>", ""])


def test_an_id_takes_the_bytes_it_needs_however_few_tokens_there_are(tmp_path):
    tokenizer = Tokenizer({"a": 3, "b": 65_536}, [], {"<e>": 70_000}, end_tokens=("<e>",))
    shards = write_shards(["ab", "b"], tokenizer, tmp_path / "wide")
    assert shards[:].tolist() == [3, 65_536, 70_000, 65_536, 70_000] and shards.vocab_size == 70_001


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("prompt", [[-1], [9], [1, 9], [1, -1, 2]])
def test_ids_that_the_model_has_not_are_named_with_those_it_has(prompt, cached):
    wrong = next(i for i in prompt if not 0 <= i < 9)
    with pytest.raises(ValueError, match=f"the prompt holds the id {wrong}, but this model has the ids 0 to 8"):
        list(generate(MODEL, prompt, 3, cached=cached))
    with pytest.raises(ValueError, match=f"banned_ids holds the id {wrong}"):
        list(generate(MODEL, [1], 3, banned_ids=prompt, cached=cached))


def test_a_ban_on_every_token_is_refused():
    with pytest.raises(ValueError, match="banned_ids are all"):
        list(generate(MODEL, [1], 3, banned_ids=range(9)))
