"""What was read is kept: texts that share a beginning with the one before, against generation without any cache."""

import gc
import random
from dataclasses import replace
from itertools import count

import pytest
import torch

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import PrefixCache, Sampling, generate
from course_lib.inference.fused_step import FusedStep
from course_lib.inference.interpret import heads_off

LLAMA = TransformerConfig(vocab_size=50, d_model=24, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=40, context_length=64)
OTHERS = {
    "learned positions": {"positions": "learned"},
    "ALiBi": {"positions": "alibi"},
    "a window": {"window": 4},
    "windows in some layers": {"window": 5, "full_attention_every": 2, "window_rope_theta": 100.0},
    "layer norms": {"norm": "layernorm", "bias": True},
}
SAMPLED = Sampling(temperature=1.0, top_p=0.95)


def model_of(config: TransformerConfig) -> TransformerLM:
    seed_everything(0)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    return model


def written(model, ids, n, sampling=SAMPLED, seed=0, **how) -> list[int]:
    return list(generate(model, ids, n, sampling, generator=torch.Generator().manual_seed(seed), **how))


def whole(prefix: PrefixCache) -> None:
    """What the cache says that it has read is in every layer, as a fresh pass over it computes it."""
    with torch.inference_mode():
        fresh = prefix.model.new_cache(1, max(len(prefix.ids), 1))
        if prefix.ids:
            prefix.model.residual(torch.tensor([prefix.ids]), fresh)
        for kept, layer in zip(prefix._layers, fresh, strict=True):
            assert kept.length >= len(prefix.ids)
            for mine, theirs in ((kept.keys, layer.keys), (kept.values, layer.values)):
                n = len(prefix.ids)
                torch.testing.assert_close(mine[:, :, :n], theirs[:, :, :n], atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", [{}, *OTHERS.values()], ids=["Llama", *OTHERS])
@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_texts_one_after_the_other_are_those_without_a_cache(change, sampling):
    model, chance = model_of(replace(LLAMA, **change)), random.Random(1)
    prefix = PrefixCache(model)
    assert FusedStep.fits(model) == (not change)
    text = [3, 1, 4]
    for seed in range(25):
        text = text[: chance.randint(1, min(len(text), 45))] + chance.choices(range(50), k=chance.randint(0, 6))
        before = prefix.ids
        n_common = next(
            (i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), min(len(text), len(before))
        )
        expected = written(model, text, 8, sampling, seed, cached=False)
        assert written(model, text, 8, sampling, seed, prefix=prefix) == expected and len(expected) == 8
        assert prefix.n_kept == min(n_common, len(text) - 1)
        text = text + expected
        assert prefix.ids == text[:-1]  # the last one is drawn, and not yet read
        whole(prefix)


def test_only_what_is_new_is_read(monkeypatch):
    model = model_of(replace(LLAMA, norm="layernorm"))
    read, residual = [], TransformerLM.residual
    monkeypatch.setattr(
        TransformerLM, "residual", lambda self, ids, *rest: read.append(ids.shape[1]) or residual(self, ids, *rest)
    )
    prefix = PrefixCache(model)
    first = written(model, [1, 2, 3, 4, 5], 3, prefix=prefix)
    assert read == [5, 1, 1]
    read.clear()
    written(model, [1, 2, 3, 4, 5, *first, 7, 8], 2, prefix=prefix)
    assert read == [3, 1] and prefix.n_kept == 7
    read.clear()
    written(model, [1, 2, 3], 1, prefix=prefix)  # known whole, but the stream at its last token is not
    assert read == [1] and prefix.n_kept == 2
    written(model, [1, 2, 3], 0, prefix=prefix)
    assert prefix.ids == [1, 2]


def test_room_is_taken_as_texts_grow():
    model = model_of(LLAMA)
    prefix, capacities = PrefixCache(model), []
    for n in (1, 9, 10, 30, 56):
        assert written(model, [1] * n, 4, prefix=prefix) == written(model, [1] * n, 4)
        capacities.append(prefix._layers[0].keys.shape[2])
    assert capacities == [5, 13, 26, 52, 64]


def test_a_text_that_ends_early_leaves_a_cache_that_is_right():
    model = model_of(LLAMA)
    prefix, ids = PrefixCache(model), [5, 6, 7]
    expected = written(model, ids, 10)
    text = generate(model, ids, 10, SAMPLED, generator=torch.Generator().manual_seed(0), prefix=prefix)
    assert [next(text) for _ in range(4)] == expected[:4]
    text.close()
    whole(prefix)
    stopped = written(model, ids, 10, stop_ids=frozenset({expected[6]}), prefix=prefix)
    assert stopped == expected[: expected.index(expected[6])]
    whole(prefix)
    assert written(model, ids, 10, prefix=prefix) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("config", [LLAMA, replace(LLAMA, norm="layernorm")], ids=["fused", "forward pass"])
def test_an_interrupt_in_the_middle_of_a_step_leaves_a_cache_that_is_right(config, layer, error, monkeypatch):
    model = model_of(config)
    prefix, ids = PrefixCache(model), [5, 6, 7]
    expected = written(model, ids, 10)
    list(generate(model, ids, 3, prefix=prefix))

    def failing(plain, at):
        calls = count(1)

        def call(*given):
            if next(calls) == at:
                raise error
            return plain(*given)

        return call

    if FusedStep.fits(model):  # the third step's scores in that layer; each has two such products a layer
        monkeypatch.setattr(torch, "bmm", failing(torch.bmm, 2 * (2 * len(prefix._layers) + layer) + 1))
    else:
        monkeypatch.setattr(prefix._layers[layer], "append", failing(prefix._layers[layer].append, 3))
    with pytest.raises(error):
        written(model, ids, 3, prefix=prefix)
    monkeypatch.undo()
    whole(prefix)
    assert written(model, ids, 10, prefix=prefix) == expected
    whole(prefix)


def test_an_error_of_a_rule_leaves_a_cache_that_is_right():
    model = model_of(LLAMA)
    prefix = PrefixCache(model)
    rule = lambda ids, logits: logits if len(ids) < 3 else None  # noqa: E731
    with pytest.raises(ValueError, match="a rule must return"):
        written(model, [5, 6], 9, rule=rule, prefix=prefix)
    whole(prefix)
    assert written(model, [5, 6], 9, prefix=prefix) == written(model, [5, 6], 9)


def test_one_text_at_a_time():
    model = model_of(LLAMA)
    prefix = PrefixCache(model)
    text = generate(model, [1, 2], 9, prefix=prefix)
    next(text)
    with pytest.raises(RuntimeError, match="in use by another text"):
        written(model, [1, 2, 3], 3, prefix=prefix)
    assert [*text] == list(generate(model, [1, 2], 9))[1:]
    text = generate(model, [1, 2], 9, prefix=prefix)
    next(text)
    del text  # a text that is dropped has ended
    gc.collect()
    assert written(model, [1, 2, 3], 3, prefix=prefix) == written(model, [1, 2, 3], 3)


def test_what_a_prefix_does_not_serve_is_refused():
    model, other = model_of(LLAMA), model_of(LLAMA)
    with pytest.raises(ValueError, match="cache of one model"):
        written(other, [1], 1, prefix=PrefixCache(model))
    with pytest.raises(ValueError, match="cached=True"):
        written(model, [1], 1, prefix=PrefixCache(model), cached=False)
    prefix = PrefixCache(model)
    for ids in ([], [1] * 65, [50]):
        with pytest.raises(ValueError, match=r"must have 1 to 64|holds the id 50"):
            written(model, ids, 1, prefix=prefix)
    assert written(model, [1] * 64, 5, prefix=prefix) == []  # a full context


def test_a_model_that_has_changed_reads_anew():
    model = model_of(LLAMA)
    prefix, ids = PrefixCache(model), [1, 2, 3, 4]
    written(model, ids, 5, prefix=prefix)
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight.mul_(-1)
    assert written(model, ids, 5, prefix=prefix) == written(model, ids, 5, cached=False) and prefix.n_kept == 0
    with heads_off(model, [(0, 1)]):
        assert written(model, ids, 5, prefix=prefix) == written(model, ids, 5, cached=False) and prefix.n_kept == 0
    assert written(model, ids, 5, prefix=prefix) == written(model, ids, 5, cached=False) and prefix.n_kept == 0
    model.double()
    assert written(model, ids, 5, prefix=prefix) == written(model, ids, 5, cached=False) and prefix.n_kept == 0
    written(model, ids, 5, prefix=prefix)
    assert prefix.n_kept == 3


def test_the_real_model_writes_the_same_with_and_without(smollm2):
    model, tokenizer = smollm2
    prefix, text = PrefixCache(model), "Once upon a time"
    for more in (" there was", " a king who", " had no"):
        ids = tokenizer.encode(text + more)
        expected = list(generate(model, ids, 12))
        assert list(generate(model, ids, 12, prefix=prefix)) == expected
        text += more + tokenizer.decode(expected)
    assert prefix.n_kept > 20
