"""The right answers of lesson 03 are what the library computes, and the model that was built takes SmolLM2's weights."""

import pytest
import torch

from course_lib.architecture import accounting, attention, transformer
from course_lib.exercises import find
from course_lib.exercises.lesson_03.build_model import learners_names
from course_lib.exercises.real_model import lesson_names, text_ids


def answer(number):
    return find(number).run(find(number).solution)


def test_parameters_of_a_block_are_those_of_the_librarys():
    shape = transformer.TransformerConfig(7, 100, 1, 5, 300, 9, n_kv_heads=1)
    (block,) = transformer.TransformerLM(shape).blocks
    assert answer("03.4") * 1000 == pytest.approx(sum(weight.numel() for weight in block.parameters()))


def test_cache_of_the_config_is_what_its_layers_reach():
    shape = transformer.TransformerConfig(
        100, 640, 12, 4, 2048, 20_000, n_kv_heads=1, d_head=256, window=500, full_attention_every=6
    )
    a_layer = accounting.cache_bytes(shape, 1, torch.bfloat16) // 12
    kept = sum(min(10_000, shape.window_of(layer) or 10_000) for layer in range(12))
    assert answer("03.10") == pytest.approx(a_layer * kept / 1e6)


def test_cross_attention_is_that_of_the_library():
    for x, y, w_q, w_k, w_v, real in find("03.9").inputs(torch.Generator().manual_seed(0)):
        q, k, v = ((t @ w)[:, None] for t, w in ((x, w_q), (y, w_k), (y, w_v)))
        theirs = attention.scaled_dot_product_attention(q, k, v, real[:, None, None], causal=False)[:, 0]
        torch.testing.assert_close(answer("03.9")(x, y, w_q, w_k, w_v, real), theirs)


def test_model_that_was_built_is_smollm2():
    model, ids = lesson_names()["model"].whole, text_ids()
    with torch.inference_mode():
        logits = answer("03.5")(ids, learners_names(model.state_dict()), model.config)
        assert (logits - model(ids)).abs().max() < (0.01 if model.dtype == torch.float32 else 1.0)


def test_reward_is_a_text_of_the_model_that_was_built():
    build, right = find("03.5"), answer("03.5")
    said = build.reward(right)
    assert "134,515,008 weights" in said and "at 12 of 12 positions" in said
    assert "The three states of matter are solid, liquid, and gas" in said

    def narrow(ids, weights, c):
        if c.vocab_size > 100:
            raise ValueError("too many tokens")
        return right(ids, weights, c)

    assert build.check(narrow).message == "But in a real run it stopped: ValueError: too many tokens"
