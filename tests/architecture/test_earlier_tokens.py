"""N-grams and the induction head look at earlier tokens: in pieces of a text, behind padding, and beside other texts."""

from dataclasses import replace

import pytest
import torch

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.attention import MultiHeadAttention, rotary_angles
from course_lib.corpora.packing import pack, places, same_document
from course_lib.devices import seed_everything
from course_lib.inference.interpret import capture_attention
from course_lib.inference.rollouts import roll_out

PLAIN = TransformerConfig(vocab_size=11, d_model=16, n_layers=2, n_heads=2, d_ff=16, context_length=12, qk_norm="head")
LOOKING = {
    "n-grams": {"ngram_rows": 97},
    "induction head": {"induction_head": True},
    "induction head of grouped queries": {"induction_head": True, "n_heads": 4, "n_kv_heads": 2},
    "both, in a window": {"ngram_rows": 97, "induction_head": True, "window": 4},
}


@pytest.fixture(params=LOOKING)
def model(request):
    seed_everything(0)
    model = TransformerLM(replace(PLAIN, **LOOKING[request.param])).eval().requires_grad_(False)
    for parameter in model.parameters():  # larger than they begin, so that everything tells
        parameter.add_(torch.randn_like(parameter) / 3)
    return model


def some_ids(*shape):
    return torch.randint(PLAIN.vocab_size, shape)


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1, 1), (3, 4), (5, 1, 1), (7,)])
def test_with_a_cache_a_text_gets_the_same_logits_in_pieces(model, cuts):
    ids = some_ids(2, 7)
    cache = model.new_cache(2, 9)
    pieces = [model(part, cache) for part in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids))


def test_a_cache_that_is_cut_short_goes_on_as_another_text(model):
    first, second = some_ids(2, 1, 8)
    second[0, :3] = first[0, :3]
    cache = model.new_cache(1, 9)
    model(first, cache)
    for layer in cache:
        layer.length = 3
    torch.testing.assert_close(model(second[:, 3:], cache), model(second)[:, 3:])


def test_texts_in_a_row_do_not_see_each_others_tokens(model):
    texts = [some_ids(length) for length in (4, 1, 2, 5)]
    packed = pack([text.tolist() for text in texts], 12)
    mask, positions = same_document(packed.documents), places(packed.documents)
    logits = model(packed.ids, mask=mask, positions=positions)
    for number, text in enumerate(texts):
        torch.testing.assert_close(logits[packed.documents == number], model(text[None])[0])


def test_padding_before_a_text_counts_as_none(model):
    """Two prompts of different lengths are written on in one batch, and each as if it were alone."""
    prompts = [some_ids(2).tolist(), some_ids(6).tolist()]
    noise = torch.rand(2, 5)
    together = roll_out(model, prompts, 5, noise=noise)
    for row, prompt in enumerate(prompts):
        alone = roll_out(model, [prompt], 5, noise=noise[row : row + 1])
        n_tokens = len(prompt) + 5
        assert together.ids[row, :n_tokens].tolist() == alone.ids[0, :n_tokens].tolist()


# ---------------------------------------------------------------- the induction head


@torch.no_grad()
def test_its_keys_are_those_of_the_position_before():
    seed_everything(0)
    attention, x = MultiHeadAttention(12, 3, induction_head=True), torch.randn(2, 7, 12)
    rotation = rotary_angles(torch.arange(7), 4)
    _, weights = attention(x, rotation=rotation, return_weights=True)
    q, k, _ = attention._queries_keys_values(x, rotation)
    k[:, 0] = torch.stack([torch.zeros(2, 4), *k[:, 0].unbind(dim=1)[:-1]], dim=1)
    visible = torch.ones(7, 7, dtype=torch.bool).tril()
    expected = (q @ k.transpose(2, 3) / 2).masked_fill(~visible, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(weights, expected)


def test_untrained_it_looks_at_what_followed_the_same_token():
    seed_everything(0)
    config = replace(PLAIN, vocab_size=500, d_model=64, n_heads=1, context_length=40, induction_head=True)
    ids = torch.randperm(500)[:20].repeat(2)
    on_next = {}
    for kind in (True, False):
        model = TransformerLM(replace(config, induction_head=kind)).eval()
        weights = capture_attention(model, ids).maps[-1, 0].float() / 255
        on_next[kind] = weights[range(20, 40), range(1, 21)].mean().item()
    assert on_next[True] > 0.5
    assert on_next[False] < 0.05
