"""LogitLens: its numbers in Python, and what a learner does with it in JupyterLab and Notebook 7."""

import copy

import pytest
import torch

from course_lib.devices import seed_everything
from course_lib.interpret import largest_tensor, logit_lens
from course_lib.transformer import TransformerConfig, TransformerLM

SIZES = {"vocab_size": 50, "d_model": 24, "n_layers": 3, "n_heads": 6, "d_ff": 40, "context_length": 16}
LLAMA = TransformerConfig(**SIZES, n_kv_heads=2)
GPT2 = TransformerConfig(**SIZES, positions="learned", norm="layernorm", feed_forward="gelu", bias=True)


@pytest.fixture(params=[LLAMA, GPT2], ids=["llama", "gpt2"])
def small(request):
    seed_everything(0)
    model = TransformerLM(request.param).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)  # fresh weights predict all tokens alike; make them choose
    return model


@pytest.fixture
def ids():
    return torch.randint(50, (9,), generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- interpret.logit_lens


def test_a_depth_reads_as_the_model_that_ends_there(small, ids):
    lens = logit_lens(small, ids, top=4)
    assert lens.top_ids.shape == (4, 9, 4)
    for depth in (1, 2, 3):
        shorter = copy.deepcopy(small)
        shorter.blocks = shorter.blocks[:depth]
        probabilities = shorter(ids[None])[0].softmax(-1)
        top = probabilities.topk(4)
        assert torch.equal(lens.top_ids[depth], top.indices)
        torch.testing.assert_close(lens.top_probabilities[depth], top.values)
        bits = torch.distributions.Categorical(probabilities).entropy() / torch.tensor(2.0).log()
        torch.testing.assert_close(lens.entropy[depth], bits)


def test_the_first_depth_is_the_embedding_and_the_last_exactly_the_model(small, ids):
    lens = logit_lens(small, ids)
    x = small.embedding(ids)
    if small.config.positions == "learned":
        x = x + small.position_embedding.weight[:9]
    top = small.unembed(small.final_norm(x)).softmax(-1).topk(10)
    assert torch.equal(lens.top_ids[0], top.indices)
    logits = small(ids[None])[0]
    exact = logits.log_softmax(-1).topk(10)
    assert torch.equal(lens.top_ids[-1], exact.indices)
    assert torch.equal(lens.top_probabilities[-1], exact.values.exp())
    assert torch.equal(lens.answer, logits.argmax(-1))


def test_the_answer_and_the_actual_next_token_are_followed_through_all_depths(small, ids):
    lens = logit_lens(small, ids, top=50)  # all of the vocabulary, so that each token's place can be looked up
    assert (lens.answer_rank[-1] == 1).all()
    assert lens.actual_rank.shape == lens.actual_probability.shape == (4, 8)
    for depth in range(4):
        for position in range(9):
            place = lens.top_ids[depth, position].tolist().index(lens.answer[position])
            assert lens.answer_rank[depth, position] == place + 1
            assert lens.answer_probability[depth, position] == lens.top_probabilities[depth, position, place]
        for position in range(8):
            place = lens.top_ids[depth, position].tolist().index(ids[position + 1])
            assert lens.actual_rank[depth, position] == place + 1
            assert lens.actual_probability[depth, position] == lens.top_probabilities[depth, position, place]


def test_the_lens_leaves_the_model_as_it_was_and_says_how_far_it_is(small, ids):
    before = small(ids[None])
    seen = []
    logit_lens(small, ids, on_layer=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.equal(small(ids[None]), before)
    with pytest.raises(IndexError):
        logit_lens(small, torch.tensor([50]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())


def test_no_tensor_is_larger_than_the_logits_of_one_depth():
    seed_everything(0)
    wide = TransformerLM(TransformerConfig(**SIZES | {"vocab_size": 20_000})).eval()
    ids = torch.arange(16)
    assert largest_tensor(lambda: logit_lens(wide, ids)) <= max(16 * 20_000 * 4, wide.embedding.weight.nbytes)
