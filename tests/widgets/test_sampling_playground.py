"""SamplingPlayground in Python: its filters, its tree of texts, and its numbers."""

import base64
import math
from io import BytesIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, generate
from course_lib.widgets import SamplingPlayground
from course_lib.widgets.sampling_playground.tree import FILTERS, Node, cut_by

PROMPT = "The capital of France is"


def logits_after(model, ids: list[int]) -> torch.Tensor:
    """The logits (vocab,) of the token that follows `ids`, computed without a cache."""
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0, -1]


# ---------------------------------------------------------------- the filters and the tree


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 2),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.05, 1),
    min_p=st.none() | st.floats(0.01, 1),
)
def test_a_token_is_cut_by_the_first_filter_that_leaves_it_nothing(seed, temperature, top_k, top_p, min_p):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
    warpers = [
        TopKLogitsWarper(top_k) if top_k else None,
        TopPLogitsWarper(top_p) if top_p and top_p < 1 else None,
        MinPLogitsWarper(min_p) if min_p else None,
    ]
    scores = TemperatureLogitsWarper(temperature)(None, logits[None])
    expected = (scores[0].softmax(-1) == 0) * (1 + FILTERS.index("float32"))
    for name, warper in zip(("top-k", "top-p", "min-p"), warpers, strict=True):
        if warper is not None:
            scores = warper(None, scores)
        expected[(expected == 0) & scores[0].isinf()] = 1 + FILTERS.index(name)
    cut = cut_by(logits, Sampling(temperature, top_k, top_p, min_p))
    assert cut.tolist() == expected.tolist()


def test_temperature_0_cuts_all_but_the_likeliest():
    cut = cut_by(torch.tensor([0.0, 3.0, 2.0]), Sampling(0.0, top_k=2))
    assert [FILTERS[number - 1] if number else None for number in cut.tolist()] == [
        "temperature 0",
        None,
        "temperature 0",
    ]


def test_branches_are_listed_once_each_from_where_they_leave_an_earlier_one():
    root = Node()
    for text in ("abc", "abd", "x", "abde", "axy", "axz"):
        node = root
        for token in text:
            node = node.follow(ord(token), 0.5, 0.5)
    listed = ["".join(chr(node.token) for node in branch.nodes) for branch in root.branches()]
    assert listed == ["abc", "x", "xy", "z", "de"]
    assert ["".join(chr(node.token) for node in branch.leaf.path()) for branch in root.branches()] == [
        "abc", "x", "axy", "axz", "abde",
    ]  # fmt: skip
    assert [chr(node.token) for node in root.end().path()] == ["a", "x", "z"]


# ---------------------------------------------------------------- the widget in Python

SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.0),
    Sampling(temperature=0.05),
    Sampling(temperature=0.7, top_k=3),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.5, min_p=0.02),
    Sampling(temperature=2.0, top_k=40, top_p=0.7, min_p=0.01),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_odds_and_shares_are_those_of_sampling(smollm2, sampling):
    model, tokenizer = smollm2
    logits = logits_after(model, tokenizer.encode(PROMPT))
    own, now = logits.softmax(-1), sampling.probabilities(logits)
    result = SamplingPlayground(model, tokenizer, PROMPT, sampling).result
    assert [token["id"] for token in result["next"]] == logits.topk(12).indices.tolist()
    for token in result["next"]:
        assert token["before"] == pytest.approx(own[token["id"]].item(), rel=1e-3)
        assert token["now"] == pytest.approx(now[token["id"]].item(), rel=1e-3)
        assert (token["cut"] > 0) == (token["now"] == 0)
    assert result["shares"][0][0] == (now > 0).sum()
    assert sum(share for _, share in result["shares"]) == pytest.approx(1, abs=1e-3)
    bits = [torch.distributions.Categorical(p).entropy().item() / math.log(2) for p in (own, now)]
    assert result["entropy"] == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize("steps", [(6,), (1, 2, 3)])
def test_the_text_is_that_of_generate_with_the_same_seed_however_it_is_asked_for(smollm2, steps):
    model, tokenizer = smollm2
    sampling = Sampling(temperature=0.9, top_p=0.95)
    playground = SamplingPlayground(model, tokenizer, PROMPT, sampling, seed=3)
    for n_tokens in steps:
        playground.generate(n_tokens)
    tokens = generate(model, tokenizer.encode(PROMPT), 6, sampling, generator=torch.Generator().manual_seed(3))
    assert playground.generated == tokenizer.decode(tokens)


def test_another_prompt_starts_over_and_another_seed_writes_another_text(smollm2):
    playground = SamplingPlayground(*smollm2, "Once", seed=3)
    playground.generate(5)
    first = playground.generated
    playground.text = "Twice"
    assert playground.generated == "" and len(playground.result["branches"]) == 1
    playground.text = "Once"
    playground.generate(5)
    assert playground.generated == first
    playground.text = "Twice"
    playground.text, playground.seed = "Once", 4
    playground.generate(5)
    assert playground.generated != first


def tell(playground: SamplingPlayground, type: str, **request) -> None:
    """Send what the browser sends."""
    playground._answer(playground, {"type": type, "settings": {}, **request}, [])


def test_branching_and_walking_back(smollm2):
    model, tokenizer = smollm2
    playground = SamplingPlayground(model, tokenizer, PROMPT)
    playground.generate(8)
    first = playground.generated
    tell(playground, "look", depth=2)
    assert playground.generated == first
    ids = [token["id"] for token in playground.result["path"]]
    logits = logits_after(model, tokenizer.encode(PROMPT) + ids[:2])
    likeliest = playground.result["next"][0]
    assert likeliest["before"] == pytest.approx(logits.softmax(-1).max().item(), rel=1e-3)
    assert [token["id"] for token in playground.result["next"] if token["is_following"]] == [ids[2]]

    other = next(token["id"] for token in playground.result["next"] if token["id"] != ids[2])
    tell(playground, "take", id=other)
    assert playground.generated == tokenizer.decode([*ids[:2], other])
    playground.generate(3)
    second = playground.generated
    assert [(branch["from"], branch["length"]) for branch in playground.result["branches"]] == [(0, 8), (2, 4)]
    tell(playground, "walk", branch=0)
    assert playground.generated == first
    assert [branch["is_current"] for branch in playground.result["branches"]] == [True, False]
    assert [token["forks"] for token in playground.result["path"]] == [1, 1, 2, 1, 1, 1, 1, 1]
    tell(playground, "walk", branch=1)
    assert playground.generated == second


def test_a_cut_token_can_be_chosen_by_hand(smollm2):
    playground = SamplingPlayground(*smollm2, PROMPT, Sampling(temperature=1.0, top_k=1))
    last = playground.result["next"][-1]
    assert FILTERS[last["cut"] - 1] == "top-k"
    tell(playground, "take", id=last["id"])
    (token,) = playground.result["path"]
    assert (token["id"], token["own"], token["drawn"]) == (last["id"], last["before"], 0)


def test_wrong_settings_and_texts_change_nothing(smollm2):
    playground = SamplingPlayground(*smollm2, PROMPT, Sampling(temperature=0.5, top_k=7))
    for name, value in (("temperature", -1.0), ("top_k", 0), ("top_p", 1.5), ("min_p", 0.0)):
        with pytest.raises(ValueError, match=name):
            setattr(playground, name, value)
    with pytest.raises(ValueError, match="empty"):
        playground.text = ""
    assert (playground.text, playground.sampling) == (PROMPT, Sampling(temperature=0.5, top_k=7))


def test_a_full_context_is_said_and_the_text_kept(smollm2):
    _, tokenizer = smollm2
    seed_everything(0)
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 4, "d_ff": 40, "context_length": 8}
    gpt2 = {"positions": "learned", "norm": "layernorm", "feed_forward": "gelu_tanh", "bias": True}
    model = TransformerLM(TransformerConfig(vocab_size=tokenizer.vocab_size + 64, **sizes, **gpt2)).eval()
    playground = SamplingPlayground(model, tokenizer, PROMPT)
    with pytest.raises(ValueError, match="fills the 8 tokens that fit"):
        playground.generate(10)
    assert len(playground.result["path"]) == 3  # those that fitted are shown
    tell(playground, "look", depth=3)
    assert playground._repr_mimebundle_()[0]["image/png"]


def test_saved_notebook_shows_a_picture_and_a_line_of_text(smollm2):
    playground = SamplingPlayground(*smollm2, "It costs $5 or $6 <b>", Sampling(temperature=0.8, top_k=50))
    playground.generate(8)
    data, _ = playground._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert len(png) < 200_000
    assert imread(BytesIO(png)).shape == (480, 1100, 4)
    assert data["text/plain"] == (
        "SamplingPlayground: 10 prompt tokens, 8 generated; temperature 0.8, top_k 50; seed 0"
    )
