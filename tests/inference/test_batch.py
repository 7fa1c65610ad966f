"""Texts that come and go in one batch, against each of them alone; what memory they take; and what is refused."""

import random
from dataclasses import replace

import pytest
import torch

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Batch, Sampling, Text, generate

CONFIG = TransformerConfig(vocab_size=50, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, context_length=32)
KINDS = {
    "llama": {},
    "window": {"window": 4},
    "alibi": {"positions": "alibi"},
    "learned": {"positions": "learned", "tied_embeddings": False, "bias": True},
    "sinusoidal": {"positions": "sinusoidal", "norm": "layernorm", "norm_position": "post"},
}
SAMPLINGS = (Sampling(), Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=0.7, top_k=5))
STOP_IDS = frozenset({7, 21})


@pytest.fixture(params=KINDS)
def model(request):
    seed_everything(0)
    model = TransformerLM(replace(CONFIG, **KINDS[request.param])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # so that the likeliest token leads by more than rounding
    return model


@pytest.fixture
def llama():
    seed_everything(0)
    return TransformerLM(CONFIG).eval()


def only_even(written, logits):
    return logits.index_fill(0, torch.arange(1, 50, 2), -torch.inf)


def wish(number: int) -> dict:
    """A text of its own length, sampling, seed and rule."""
    chance = random.Random(number)
    return {
        "prompt": [chance.randrange(50) for _ in range(chance.randint(1, 20))],
        "max_new_tokens": chance.randint(1, 12),
        "sampling": SAMPLINGS[number % 3],
        "stop_ids": STOP_IDS if number % 2 else frozenset(),
        "rule": only_even if number % 4 == 0 else None,
        "generator": torch.Generator().manual_seed(number),
    }


def alone(model, number: int) -> list[int]:
    texts = wish(number)
    return list(generate(model, texts.pop("prompt"), **texts))


def without_stop(text: Text) -> list[int]:
    return text.written[:-1] if text.ended == "stop" else text.written


def test_every_text_is_the_one_that_is_written_alone_whoever_comes_and_goes(model):
    batch, chance, texts, unwanted = Batch(model, n_rows=5), random.Random(0), {}, set()
    waiting = list(range(40))
    while waiting or batch.texts:
        while waiting and len(batch.texts) < 5 and chance.random() < 0.7:
            number = waiting.pop()
            texts[number] = batch.add(**wish(number))
        if batch.texts and chance.random() < 0.05:
            unwanted.add(chance.choice(batch.texts))
            batch.remove(next(iter(unwanted - {text for text in unwanted if text not in batch.texts})))
        before = {text: list(text.written) for text in batch.texts}
        got = batch.step()
        assert got.keys() == before.keys()
        assert all(text.written == [*written, got[text].id] for text, written in before.items())
    assert unwanted and len(texts) == 40
    for number, text in texts.items():
        expected = alone(model, number)
        if text in unwanted:
            assert without_stop(text) == expected[: len(text.written)]
        else:
            assert without_stop(text) == expected and text.ended


def test_memory_that_held_no_numbers_does_no_harm(llama):
    batch = Batch(llama, 3)
    for layer in batch._cache:
        layer.keys_values.fill_(torch.nan)
    texts = [batch.add([1, 2, 3], 9), batch.add([4] * 20, 9)]
    while batch.step():
        if len(texts) == 2:
            texts.append(batch.add([5], 3))
    expected = [list(generate(llama, *wish)) for wish in (([1, 2, 3], 9), ([4] * 20, 9), ([5], 3))]
    assert [text.written for text in texts] == expected


def test_short_texts_without_end_use_few_columns(llama):
    batch, most = Batch(llama, 2), 0
    for _ in range(30):
        batch.add([1, 2, 3], 4)
        for _ in range(2):
            batch.step()
            most = max(most, batch._end)
    assert most <= 2 * 7 + 1


def test_log_probs_are_the_models_own(llama):
    batch = Batch(llama, 2, banned_ids=[3])
    text = batch.add([1, 2], 5, Sampling(temperature=2.0), rule=only_even, n_likeliest=4)
    batch.add([9, 9, 9], 5)
    tokens = [batch.step()[text] for _ in range(5)]
    with torch.no_grad():
        expected = llama(torch.tensor([[1, 2, *text.written]]))[0, 1:-1].log_softmax(-1)
    for token, log_probs in zip(tokens, expected, strict=True):
        assert token.log_prob == pytest.approx(float(log_probs[token.id]), abs=1e-4)
        assert [id for id, _ in token.likeliest] == log_probs.topk(4).indices.tolist()
        assert [p for _, p in token.likeliest] == pytest.approx(log_probs.topk(4).values.tolist(), abs=1e-4)


def test_a_rule_that_fails_costs_no_other_text_anything(llama):
    def broken(written, logits):
        if len(written) == 2:
            raise RuntimeError("the rule of nobody")
        return logits

    batch = Batch(llama, 4)
    good = batch.add([1, 2, 3], 6)
    bad, none_left = batch.add([4], 6, rule=broken), batch.add([5, 6], 6, rule=lambda _, x: x - torch.inf)
    steps = [batch.step() for _ in range(6)]
    assert isinstance(steps[0][none_left], ValueError) and isinstance(steps[2][bad], RuntimeError)
    assert len(bad.written) == 2 and not batch.texts and batch.step() == {}
    assert good.written == list(generate(llama, [1, 2, 3], 6))


def test_what_cannot_be_is_refused_and_leaves_the_batch_as_it_was(llama):
    batch = Batch(llama, 2, 16)
    first = batch.add([1, 2, 3], 6)
    refused = {
        "1 to 10 tokens, not 0": ([], 6),
        "1 to 10 tokens, not 11": ([1] * 11, 6),
        "holds the id 50": ([50], 6),
        "max_new_tokens must be positive": ([1], 0),
        "not True": ([1], True),
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError, match=message):
            batch.add(*arguments)
    with pytest.raises(ValueError, match="n_likeliest"):
        batch.add([1], 6, n_likeliest=51)
    batch.add([1], 6)
    with pytest.raises(ValueError, match="the batch is full"):
        batch.add([1], 6)
    while batch.step():
        pass
    batch.remove(first)
    assert first.written == list(generate(llama, [1, 2, 3], 6))
    for options, message in (((0,), "n_rows"), ((1, 33), "at most 32"), ((1, 0), "n_columns")):
        with pytest.raises(ValueError, match=message):
            Batch(llama, *options)
    with pytest.raises(ValueError, match="none is left to draw"):
        Batch(llama, 1, banned_ids=range(50))


def test_logits_that_are_no_numbers_are_said(llama):
    with torch.no_grad():
        llama.final_norm.weight.fill_(torch.nan)
    batch = Batch(llama, 1)
    batch.add([1], 3)
    with pytest.raises(FloatingPointError):
        batch.step()
